# A workstation: `docker build --target cpu -t edgeprune .`, or `--target cuda`. How to run it: docs/guides/containers.md.
FROM python:3.12-slim-bookworm AS base
# What opencv-python's wheel links to, and ssh for boards; without versions, as Debian keeps one of each.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 openssh-client \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 edgeprune \
    && chmod 1777 /home/edgeprune
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 HOME=/home/edgeprune USER=edgeprune
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY targets targets
COPY edgeprune edgeprune
ENTRYPOINT ["edgeprune"]
CMD ["doctor"]

FROM base AS cpu
# Ranges are those of pyproject.toml; PyPI's torch would bring CUDA.
# hadolint ignore=DL3013
RUN pip install "torch>=2.6,<3" "torchvision>=0.21,<1" --index-url https://download.pytorch.org/whl/cpu \
    && pip install ".[sign,mlflow]"
USER 1000
WORKDIR /work

# CUDA comes with the packages, the driver from the host through NVIDIA's container toolkit.
FROM base AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# Both wheels of ONNX Runtime provide one module: the second one has to be alone.
# hadolint ignore=DL3013
RUN pip install ".[cuda,tensorrt,sign,mlflow]" \
    && pip uninstall -y onnxruntime onnxruntime-gpu \
    && pip install "onnxruntime-gpu>=1.20,<2"
USER 1000
WORKDIR /work
