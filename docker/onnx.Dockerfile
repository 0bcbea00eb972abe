# The service of an ONNX file on a CPU, without torch, as a user without rights. From the root of the repository, with a
# folder that contains model.onnx and model.names.npz:
#   docker build --file docker/onnx.Dockerfile --tag ezsd-onnx .
#   docker run --publish 127.0.0.1:8000:8000 --volume "$PWD/exported:/model:ro" ezsd-onnx
FROM python:3.12-slim

WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
COPY recipes recipes
RUN python -m pip install --no-cache-dir --constraint constraints.txt \
        numpy onnxruntime pillow typer rich pyyaml pydantic supervision \
        fastapi uvicorn python-multipart prometheus-client \
    && python -m pip install --no-cache-dir --no-deps . \
    && useradd --uid 10001 --no-create-home ezsd

ENV EZSD_CACHE=/tmp/ezsd MPLCONFIGDIR=/tmp/matplotlib PYTHONUNBUFFERED=1
USER 10001
EXPOSE 8000
HEALTHCHECK --start-period=60s --interval=15s --timeout=5s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/ready', timeout=4)"]
ENTRYPOINT ["ezsd"]
CMD ["serve", "/model/model.onnx", "--host", "0.0.0.0", "--port", "8000"]
