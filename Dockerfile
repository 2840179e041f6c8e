# An image that starts the app as a user that is not root:
#
#   docker build -t qwen-asr-live .
#   docker run -p 127.0.0.1:8000:8000 qwen-asr-live                            http://localhost:8000
#   docker run -p 8000:8000 qwen-asr-live --generate-self-signed-cert         https://<address of the host>:8000
#   docker run --gpus all -p 127.0.0.1:8000:8000 -v models:/home/user/.cache/huggingface qwen-asr-live
#
# On a Hugging Face Space of the Docker kind it runs as it is: the app sees SPACE_ID and listens on 7860, and the
# Space has HTTPS in front. (A Space of the Gradio kind does not need this file: it runs app.py.)
#
# A digest makes the base the same each time, without its later fixes. To pin it:
#
#   docker buildx imagetools inspect python:3.11-slim --format '{{.Manifest.Digest}}'
#   docker build --build-arg BASE=python:3.11-slim@sha256:... -t qwen-asr-live .
ARG BASE=python:3.11-slim
FROM ${BASE}

# A Space runs its container as user 1000 too. The cache and certs/ are made here so that they, and volumes that are
# mounted over them, belong to that user.
RUN useradd --create-home --uid 1000 user \
    && install -d -o user -g user /home/user/app /home/user/.cache /home/user/.cache/huggingface \
    && install -d -o user -g user -m 700 /home/user/app/certs
USER user
WORKDIR /home/user/app
ENV PATH=/home/user/.local/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    # In a container nobody but the container itself would reach 127.0.0.1; what is published decides who may.
    QWEN_ASR_HOST=0.0.0.0

# A --build-arg of this name lets pip find smaller, CPU-only builds of torch, which therefore has no hash in the lock.
ARG PIP_EXTRA_INDEX_URL
COPY --chown=user requirements.txt requirements.lock ./
RUN pip install --no-cache-dir --user --no-deps --require-hashes -r requirements.lock \
    && pip install --no-cache-dir --user -r requirements.txt
COPY --chown=user app.py ./
COPY --chown=user qwen_asr ./qwen_asr

EXPOSE 8000 7860
# Options of app.py can follow the image's name.
ENTRYPOINT ["python", "app.py"]
