# The daemon and the command line in a container.
#
#   docker build -t amistream .
#
# Give the daemon the device of the volume, read-only, with the device's group, and share the directory of the socket
# with the host:
#
#   docker run -d --name amistream --stop-timeout 3600 \
#       --device /dev/xvdf:/dev/xvdf:r --group-add "$(stat -c %g /dev/xvdf)" \
#       -v /run/amistream:/run/amistream -v amistream-state:/var/lib/amistream \
#       -v /etc/amistream:/etc/amistream:ro amistream
#   docker exec amistream amistream bundle /dev/xvdf --to s3://BUCKET/KEY/PREFIX
#
# - User 10001 must have access to /run/amistream and every file of a job (keys, certificates, image files):
#   `install -d -o 10001 /run/amistream` once.
# - On stop, running jobs end first: hence --stop-timeout. AMISTREAM_ON_STOP=cancel cancels them and removes their parts.
# - On EC2, a container gets the instance role only with a metadata response hop limit of 2.

ARG PYTHON_VERSION=3.12

FROM python:${PYTHON_VERSION}-slim AS build
WORKDIR /build
COPY pyproject.toml README.md ./
COPY docs/LICENSE docs/
COPY config/amistream.* config/
COPY service service
RUN pip wheel --no-cache-dir --no-deps --wheel-dir wheels . \
    && python -m venv /opt/amistream \
    && /opt/amistream/bin/pip install --no-cache-dir wheels/*.whl

FROM python:${PYTHON_VERSION}-slim
COPY --from=build /opt/amistream /opt/amistream
RUN groupadd --system --gid 10001 amistream \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin amistream \
    && install -d -o amistream -g amistream /run/amistream \
    && install -d -o amistream -g amistream -m 0700 /var/lib/amistream
ENV PATH=/opt/amistream/bin:$PATH \
    AMISTREAM_STATE_DIR=/var/lib/amistream
USER 10001:10001
VOLUME ["/var/lib/amistream"]
# The command would spend a second of CPU on its imports, and time out on a busy host. AMISTREAM_SOCKET names another socket.
HEALTHCHECK --interval=30s --timeout=30s --start-period=15s CMD ["python", "-IS", "-c", "\
import os, socket;\
s = socket.socket(socket.AF_UNIX);\
s.settimeout(25);\
s.connect(os.environ.get('AMISTREAM_SOCKET', '/run/amistream/amistream.sock'));\
s.sendall(b'GET /v1/health HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n');\
raise SystemExit(b' 200 ' not in s.recv(64))"]
ENTRYPOINT ["amistreamd"]
