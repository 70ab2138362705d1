# decentral as an image: `docker run decentral` lists the commands, `docker run decentral demo` trains five peers.
#
#   docker build -t decentral .                                           torch as the default index has it: CUDA on Linux
#   docker build -t decentral --build-arg TORCH_INDEX=<index of CPU builds> .       torch and torchvision from that index
#   docker build -t decentral --build-arg EXTRAS=ray .                      with an extra: peers as actors of a Ray cluster
#
# Both builds of torch must come from one index: a CPU torch beside the other torchvision fails when it is imported.

ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS wheel
WORKDIR /source
RUN pip install --no-cache-dir build
COPY LICENSE README.md pyproject.toml ./
COPY decentral decentral
COPY nodes nodes
COPY cluster cluster
COPY recipes recipes
RUN python -m build --wheel --outdir /wheels

FROM python:${PYTHON}-slim
ARG TORCH_INDEX=""
ARG EXTRAS=""
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /home/decentral

COPY constraints.txt /tmp/constraints.txt
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -c /tmp/constraints.txt torch torchvision
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install -c /tmp/constraints.txt "$(ls /wheels/*.whl)${EXTRAS:+[$EXTRAS]}" && rm /tmp/constraints.txt

RUN useradd --create-home --uid 10001 decentral && mkdir /runs /data && chown decentral /runs /data
USER decentral
# Runs are written to, and datasets are read from, places that a volume can be mounted on.
WORKDIR /runs
ENV DECENTRAL_DATA=/data
VOLUME ["/runs", "/data"]

# An image whose parts do not load is ill: `doctor` imports them and looks at what the machine offers.
HEALTHCHECK --interval=60s --timeout=30s --start-period=30s CMD ["decentral", "doctor", "--json"]

ENTRYPOINT ["decentral"]
CMD ["--help"]
