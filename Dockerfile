# TruckLLM as one image: every service of docker-compose.yml runs it with another command.
FROM python:3.13-slim

RUN useradd --system --uid 10001 --home-dir /data --create-home truckllm
COPY pyproject.toml constraints.txt README.md LICENSE truckllm.py /src/
COPY models /src/models
COPY submit /src/submit
COPY worker /src/worker
COPY examples /src/examples
RUN pip install --no-cache-dir -c /src/constraints.txt /src && rm -r /src

USER truckllm
WORKDIR /data
# exec form: SIGTERM reaches truckllm itself, which then finishes the calls that are in flight
ENTRYPOINT ["truckllm"]
CMD ["--help"]
