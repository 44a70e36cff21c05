# One image for a class, Codespaces and Binder: tool chain, kernel, compiled crate, JupyterLab, both
# languages; an ordinary user. What its steps do stands in scripts/image, which runs without docker too.
FROM debian:trixie-slim

# The names that Binder asks for.
ARG NB_USER=learner
ARG NB_UID=1000
ENV USER=${NB_USER} HOME=/home/${NB_USER} LANG=C.UTF-8
ENV PATH=${HOME}/candle_course/.venv/bin:${HOME}/.cargo/bin:${PATH}
ENV CANDLE_COURSE_USER=${NB_USER} CANDLE_COURSE_UID=${NB_UID}
WORKDIR ${HOME}/candle_course

COPY . .
RUN scripts/image system
USER ${NB_USER}
RUN scripts/image user

EXPOSE 8888
CMD ["scripts/lab", "--no-browser", "--ServerApp.ip=0.0.0.0"]
