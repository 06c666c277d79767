"""Every query, one file a noun. Moves are named functions, each guarded so that it can only happen once.

All functions take a connection of `models.database`, in a transaction that their caller owns; none commits.
"""
