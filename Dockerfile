# The kit on a CPU, with JupyterLab: docker build -t kit . && docker run -p 8888:8888 -v kit-result:/home/student/kit/result kit
FROM python:3.12-slim

# git: pack --commit and nbgitpuller
RUN apt-get update && apt-get install -y --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home student
USER student
WORKDIR /home/student/kit

# first what rarely changes, so that it is not installed again after each edit
COPY --chown=student install.py requirements.txt constraints.txt ./
RUN python install.py
COPY --chown=student . .
RUN mkdir -p result

ENV PATH="/home/student/kit/.venv/bin:$PATH"
EXPOSE 8888
CMD ["python", "-m", "jupyterlab", "--ip=0.0.0.0", "--no-browser", "train_default.ipynb"]
