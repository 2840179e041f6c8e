# The server and the other commands of qwen-asr, as a user that is not root. docs/deploy.md shows how to use it.
#
#   docker build -t qwen-asr-live .                                           runs on a GPU and on a CPU
#   docker build --build-arg DEVICE=cpu --build-arg TORCH_INDEX_URL=... .     smaller; runs on a CPU only
#
# A Hugging Face Space of the Docker kind needs no arguments: the app sees SPACE_ID and listens on 7860, and the Space
# has HTTPS in front. (A Space of the Gradio kind does not need this file: it runs app.py.)

# scripts/pin-images replaces the digest with that of today's image: a digest is the same each time, but gets no fixes.
ARG BASE=python:3.11-slim-bookworm@sha256:0bee7276f83efd4a1ee05bbbf4281d95ed28e079220a9457f25a93e3f1e3c31b

# --- everything that is needed to install stays in this stage
FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
# One static program is taken from Debian, from the release that the base image is of.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /build
COPY requirements.txt requirements.lock ./
# PyPI has the builds of PyTorch for CUDA, with all that they need of CUDA but the driver. Its builds for CPUs are in
# PyTorch's own index. torch has no hash in the lock, because each build has another.
ARG DEVICE=cuda
ARG TORCH_INDEX_URL
# The version is pinned in requirements.txt.
# hadolint ignore=DL3013
RUN pip install --no-deps ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} \
        "$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements.txt)" \
    && cuda="$(sed -n "s/^cuda.*= *//p" /opt/venv/lib/python3*/site-packages/torch/version.py)" \
    && case "$DEVICE ${cuda:-unknown}" in \
        "cpu None" | "cuda '"*) ;; \
        cpu\ *) echo >&2 "This PyTorch is for CUDA: give --build-arg TORCH_INDEX_URL=..., the --index-url that" \
            "https://pytorch.org/get-started/locally/ shows for CPU."; exit 1 ;; \
        cuda\ *) echo >&2 "This PyTorch is for CPUs only: give --build-arg DEVICE=cpu, or another" \
            "TORCH_INDEX_URL."; exit 1 ;; \
        *) echo >&2 "DEVICE is $DEVICE, but expects cpu or cuda."; exit 1 ;; \
    esac
RUN pip install --no-deps --require-hashes -r requirements.lock \
    && pip install -r requirements.txt \
    && pip uninstall --yes pip

# --- what runs
FROM ${BASE}
# For images that are published: --build-arg REVISION="$(git rev-parse HEAD)"
ARG REVISION
LABEL org.opencontainers.image.title="qwen-asr-live" \
      org.opencontainers.image.description="Live speech recognition with Qwen3-ASR in a Gradio page" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"

# A Space runs its container as user 1000 too. What is written is made here, so that it belongs to that user, and so do
# volumes that are mounted over it.
RUN useradd --create-home --uid 1000 user \
    && install -d -o user -g user /home/user/app /home/user/.cache /home/user/.cache/huggingface \
    && install -d -o user -g user -m 700 /home/user/app/certs
# As process 1 Python would not see SIGTERM before the server is up; tini passes it on, and reaps what others leave.
COPY --from=build /usr/bin/tini-static /usr/bin/tini
COPY --from=build /opt/venv /opt/venv
WORKDIR /home/user/app
COPY app.py scripts/image-entrypoint scripts/image-health ./
COPY qwen_asr ./qwen_asr
RUN python -m compileall -q qwen_asr
# A number, because Kubernetes' runAsNonRoot does not look up names.
USER 1000
ENV HOME=/home/user \
    PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/home/user/app \
    PYTHONUNBUFFERED=1 \
    # In a container nobody but the container itself would reach 127.0.0.1; what is published decides who may.
    QWEN_ASR_HOST=0.0.0.0 \
    # What the NVIDIA container runtime passes in, beside the devices.
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

VOLUME ["/home/user/.cache/huggingface", "/home/user/app/certs"]
EXPOSE 8000 7860
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 CMD ["python", "/home/user/app/image-health"]
# Options of app.py can follow the image's name, or a command of qwen-asr, such as `transcribe`.
ENTRYPOINT ["tini", "--", "/home/user/app/image-entrypoint"]
