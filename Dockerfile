# The converter alone, for data servers: no TensorFlow, no compiler, no caches.
#
#   docker build -t npy2tfrecord .
#   docker run --rm --user "$(id -u):$(id -g)" -v /data:/data npy2tfrecord convert /data/arrays /data/shards
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
WORKDIR /source
COPY pyproject.toml setup.cfg README.md LICENSE ./
COPY npy2tfrecord npy2tfrecord
COPY readers readers
RUN python -m venv /opt/npy2tfrecord \
    && /opt/npy2tfrecord/bin/pip install --no-cache-dir --no-compile '.[isal]' \
    && /opt/npy2tfrecord/bin/pip uninstall --yes pip \
    && /opt/npy2tfrecord/bin/python -m compileall -q -x '/tests/' /opt/npy2tfrecord/lib

FROM python:${PYTHON}-slim
COPY --from=build /opt/npy2tfrecord /opt/npy2tfrecord
# joblib keeps its semaphores in /dev/shm, and nothing else is written outside of OUT: any user will do.
USER 65534:65534
WORKDIR /data
ENTRYPOINT ["/opt/npy2tfrecord/bin/npy2tfrecord"]
CMD ["--help"]
