"""Every query, one file a noun. Moves are named functions, each guarded so that it can only happen once.

All functions take a connection of `models.database`, in a transaction that their caller owns; none commits.

Rows are locked in one order, so that on PostgreSQL nobody waits in a circle: the batch, its jobs (by id), attempts and results,
`batch_counts` (by batch and shard), `batch_spend`, budgets (by batch) with their reservations. SQLite has one writer at a time.

* Who needs rows that only it may move waits for none that another holds: claims, rescues, reruns, cancellations and wakings skip
  locked jobs, a batch that is over its cap is paused only if nobody holds it.
* Whoever adds to a batch's sums holds a row of its counters, also where no job has ended. So who holds all of these (`recounts`,
  `budgets.cap`) sees sums that stand still, with rows that aren't there yet.
* A batch is started by the claim that took its first job, after that job: nobody who holds a batch waits for a job.
* A worker's group is one transaction: endings first, then whatever else was asked, for any number of batches. So whoever takes a budget
  takes those of all unfinished batches. A late reply for a job that another group moves, or a cancellation behind a reservation, can still
  close a circle; PostgreSQL ends one of both after a second, and the recorder repeats it at once. So does a recount.
"""
