"""The image, compose.yaml and the manifests for Kubernetes: what they name exists, and their own tools accept them.

`scripts/test-image` builds the image and runs it, which takes too long to be a test.
"""

from __future__ import annotations

import dataclasses
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from qwen_asr.cli.main import COMMANDS
from qwen_asr.config.config import DEFAULT_PORT, SPACE_PORT, Config
from qwen_asr.config.limits import ShutdownLimits
from qwen_asr.config.option_fields import environment_name, flag
from tests.repository.layout import ROOT
from tests.support.commands import OFFLINE
from tests.support.network import free_ports
from tests.support.processes import kill, until

MANIFESTS = ["docs/kubernetes.yaml", "docs/kubernetes-engines.yaml"]
COMPOSE = ["compose.yaml", "compose.gpu.yaml"]
APP = "/home/user/app"
MODELS = "/home/user/.cache/huggingface"
TEMPORARY = "/tmp"  # noqa: S108 - of the container
START_SECONDS = 120
FLAGS = {flag(field.name): field for field in dataclasses.fields(Config)}
VARIABLES = {environment_name(field) for field in dataclasses.fields(Config)}


def tool(name: str) -> str:
    """A program that is installed with the packages of requirements-test.txt."""
    return str(Path(sys.executable).parent / name)


def judged(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# --- the Dockerfile


def instructions() -> list[tuple[str, str]]:
    """Instruction and arguments, each in one line, without comments."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.M)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines if line)]


def stages() -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for name, rest in instructions():
        if name == "FROM":
            found.append([])
        if found:
            found[-1].append((name, rest))
    return found


def of(stage: list[tuple[str, str]], wanted: str) -> list[str]:
    return [rest for name, rest in stage if name == wanted]


def image_environment() -> dict[str, str]:
    return dict(re.findall(r"(\w+)=(\S+)", " ".join(of(stages()[-1], "ENV"))))


def test_the_dockerfile_passes_hadolint() -> None:
    judged(tool("hadolint"), "--failure-threshold", "style", "Dockerfile")


def test_images_are_named_by_their_digest() -> None:
    assert dict(instructions())["ARG"]
    bases = [rest for name, rest in instructions() if name == "ARG" and rest.startswith("BASE=")]
    assert [stage[0][1].split()[0] for stage in stages()] == ["${BASE}"] * len(stages())
    images = [service["image"] for service in compose()["services"].values() if "build" not in service]
    assert len(bases) == len(images) == 1
    for image in (*bases, *images):
        assert re.fullmatch(r"(BASE=)?[a-z]+:[\w.-]+@sha256:[0-9a-f]{64}", image)


def pinned(folder: Path, digest: str) -> tuple[int, str]:
    """Runs scripts/pin-images on copies of the files, with a `docker` that knows this digest; exit code and files."""
    for name in ("Dockerfile", "compose.yaml", "scripts/pin-images"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    docker = folder / "docker"
    docker.write_text(f'#!/bin/sh\ncase "$*" in "buildx imagetools inspect "*) echo {digest} ;; *) exit 1 ;; esac\n')
    docker.chmod(0o755)
    variables = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["sh", "scripts/pin-images"], cwd=folder, env=variables, capture_output=True, check=False)
    return done.returncode, (folder / "Dockerfile").read_text() + (folder / "compose.yaml").read_text()


def test_images_are_pinned_again(tmp_path: Path) -> None:
    before = (ROOT / "Dockerfile").read_text(encoding="utf-8") + (ROOT / "compose.yaml").read_text(encoding="utf-8")
    digests = re.findall("sha256:[0-9a-f]{64}", before)
    assert len(digests) == 2
    new = f"sha256:{'5' * 64}"
    assert pinned(tmp_path, new) == (0, before.replace(digests[0], new).replace(digests[1], new))
    code, after = pinned(tmp_path, "unknown")
    assert code != 0
    assert after == before


def test_the_image_runs_as_a_user_that_is_not_root() -> None:
    final = stages()[-1]
    [user] = of(final, "USER")
    assert f"--uid {user} user" in " ".join(of(final, "RUN"))  # a number, for runAsNonRoot of Kubernetes
    assert int(user) > 0
    names = [name for name, _ in final]
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert set(names[names.index("USER") :]) <= {"USER", "ENV", "VOLUME", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT"}


def test_the_image_holds_what_the_app_needs_and_nothing_else() -> None:
    copied = [
        source
        for stage in stages()
        for line in of(stage, "COPY")
        if not line.startswith("--from")
        for source in line.split()[:-1]
    ]
    scripts = ["scripts/image-entrypoint", "scripts/image-health"]
    assert copied == ["requirements.txt", "requirements.lock", "app.py", *scripts, "qwen_asr"]
    assert all((ROOT / source).exists() for source in copied)
    passed_on = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert [line.removeprefix("!") for line in passed_on if line.startswith("!")] == copied
    assert "*" in passed_on


def test_what_installs_stays_in_the_first_stage() -> None:
    build, final = stages()
    assert [line for line in of(final, "RUN") if re.search(r"\b(apt-get|pip)\b", line)] == []
    assert [line.split()[1:] for line in of(final, "COPY") if line.startswith("--from=build")] == [
        ["/usr/bin/tini-static", "/usr/bin/tini"],
        ["/opt/venv", "/opt/venv"],
    ]
    assert "pip uninstall --yes pip" in of(build, "RUN")[-1]


def test_the_ports_variables_and_volumes_of_the_image_are_those_of_the_app() -> None:
    final = stages()[-1]
    assert of(final, "EXPOSE") == [f"{DEFAULT_PORT} {SPACE_PORT}"]
    environment = image_environment()
    assert {name for name in environment if name.startswith("QWEN_ASR_")} <= VARIABLES
    assert (environment["QWEN_ASR_HOST"], environment["HOME"], environment["PYTHONPATH"]) == (
        "0.0.0.0",
        "/home/user",
        APP,
    )
    assert json.loads(of(final, "VOLUME")[0]) == [MODELS, f"{APP}/certs"]
    assert of(final, "WORKDIR") == [APP]
    assert json.loads(of(final, "ENTRYPOINT")[0]) == ["tini", "--", f"{APP}/image-entrypoint"]
    _, _, command = of(final, "HEALTHCHECK")[0].partition(" CMD ")
    assert json.loads(command) == ["python", f"{APP}/image-health"]


# --- the entry point and the health check, in a folder that is laid out as in the image


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image")
    for name in ("app.py", "qwen_asr", "scripts/image-entrypoint", "scripts/image-health"):
        (folder / Path(name).name).symlink_to(ROOT / name)
    programs = folder / "bin"
    programs.mkdir()
    (programs / "python").symlink_to(sys.executable)
    return folder


def environment(image: Path, **environ: str) -> dict[str, str]:
    # A symbolic link to its interpreter is no virtual environment: the search path leads to what is installed.
    paths = os.pathsep.join([str(image), *filter(None, sys.path)])
    return {
        **os.environ,
        **OFFLINE,
        "PATH": f"{image / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": paths,
        "QWEN_ASR_MODEL_PATH": "demo",
        "QWEN_ASR_HOST": image_environment()["QWEN_ASR_HOST"],
        **environ,
    }


def entered(image: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the entry point to its end."""
    command = [str(image / "image-entrypoint"), *arguments]
    return subprocess.run(
        command, cwd=image, env=environment(image), capture_output=True, text=True, timeout=120, check=False
    )


def health(image: Path, *arguments: str, **environ: str) -> tuple[int, str]:
    command = [sys.executable, str(image / "image-health"), *arguments]
    done = subprocess.run(
        command,
        cwd=image,
        env=environment(image, **environ),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout


@pytest.mark.slow
def test_the_entry_point_starts_the_server_or_a_command(image: Path) -> None:
    done = entered(image, "--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "qwen-asr-live")
    done = entered(image, "--max-sessions", "none")
    assert "--max-sessions" in done.stderr
    done = entered(image, "cert", "show")
    assert done.stderr.startswith("qwen-asr: error: No file was given")
    done = entered(image, "nonsense")
    assert (done.returncode, done.stdout) == (2, "")
    assert "nonsense" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "by_variable"),
    [([], False), (["--generate-self-signed-cert"], False), (["--local-ca"], True)],
    ids=["http", "https", "variable"],
)
def test_the_health_check_finds_the_server(image: Path, tmp_path: Path, options: list[str], by_variable: bool) -> None:
    [port] = free_ports(1)
    variables = {"QWEN_ASR_PORT": str(port)} if by_variable else {}
    arguments = [*options, *([] if by_variable else ["--port", str(port)])]
    code, output = health(image, *arguments, **variables)
    assert code == 1
    assert f"port {port}" in output
    with subprocess.Popen(
        [str(image / "image-entrypoint"), *arguments],
        cwd=tmp_path,
        env=environment(image, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert until(
                lambda: process.poll() is not None or health(image, *arguments, **variables)[0] == 0, START_SECONDS
            )
            code, output = health(image, *arguments, **variables)
            assert (code, json.loads(output)["status"]) == (0, "ok")
        finally:
            kill(process)


@pytest.fixture
def hanging() -> Iterator[int]:
    """The port of a server whose /healthz says that only a restart helps."""

    class Unhealthy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503 if self.path == "/healthz" else 200)
            self.end_headers()
            self.wfile.write(b"a pass hangs")

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Unhealthy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_the_health_check_says_what_is_wrong(image: Path, hanging: int) -> None:
    # A proxy that the container is configured with is not asked for the container's own server.
    proxy = {"http_proxy": "http://127.0.0.1:9"}
    assert health(image, QWEN_ASR_PORT=str(hanging), **proxy) == (1, "a pass hangs\n")
    code, output = health(image, "--port", "x")
    assert code == 1
    assert "--port" in output


def test_another_command_is_healthy_while_it_runs(image: Path) -> None:
    assert health(image, "transcribe", "speech.wav") == (0, "")


# --- compose.yaml


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return loaded


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_files_follow_the_specification(name: str) -> None:
    judged(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", name)


def test_compose_overrides_a_service_that_there_is() -> None:
    override = yaml.safe_load((ROOT / "compose.gpu.yaml").read_text(encoding="utf-8"))
    assert set(override["services"]) <= set(compose()["services"])


def test_compose_gives_the_app_options_that_it_has() -> None:
    app = compose()["services"]["app"]
    assert unknown_options(app["command"]) == []
    assert {volume.rpartition(":")[2] for volume in app["volumes"]} <= {MODELS, f"{APP}/certs"}
    assert app["expose"] == [str(DEFAULT_PORT)]
    assert "ports" not in app  # every peer is a trusted proxy
    assert int(app["stop_grace_period"].removesuffix("s")) > stop_seconds()
    assert set(app["build"]["args"]) <= {rest.partition("=")[0] for stage in stages() for rest in of(stage, "ARG")}
    assert ".env" in (ROOT / ".gitignore").read_text(encoding="utf-8")


def test_compose_says_what_to_do_where_the_domain_is_missing() -> None:
    used = re.findall(r"\$\{(\w+)(:?[?-])?([^}]*)\}", (ROOT / "compose.yaml").read_text(encoding="utf-8"))
    assert [(name, how) for name, how, text in used if how == ":?" and len(text) > 20] == [("DOMAIN", ":?")]
    # Compose reads the whole file first, so what has no default of its own is checked there.
    assert {name for name, how, _ in used if not how} <= {"DOMAIN"}


def test_caddy_takes_domain_and_address_from_compose(program: Callable[[str], str]) -> None:
    caddy = compose()["services"]["caddy"]
    assert caddy["volumes"][0] == "./docs/Caddyfile:/etc/caddy/Caddyfile:ro"
    assert set(caddy["environment"]) == {"DOMAIN", "UPSTREAM"}
    upstream = caddy["environment"]["UPSTREAM"]
    assert upstream == f"app:{DEFAULT_PORT}"
    command = [program("caddy"), "adapt", "--adapter", "caddyfile", "--config", "docs/Caddyfile"]
    variables = {**os.environ, "DOMAIN": "words.example.org", "UPSTREAM": upstream}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=True)
    assert '"host":["words.example.org"]' in done.stdout
    assert f'"dial":"{upstream}"' in done.stdout


# --- the manifests for Kubernetes


def resources(name: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all((ROOT / name).read_text(encoding="utf-8")) if one]


def workloads(name: str) -> list[dict[str, Any]]:
    return [one for one in resources(name) if one["kind"] in ("Deployment", "StatefulSet")]


WORKLOADS = [pytest.param(one, id=one["metadata"]["name"]) for name in MANIFESTS for one in workloads(name)]


def container(workload: dict[str, Any]) -> dict[str, Any]:
    [only] = workload["spec"]["template"]["spec"]["containers"]
    return dict(only)


def unknown_options(arguments: list[str]) -> list[str]:
    return [word for word in arguments if word.startswith("--") and word not in FLAGS]


def stop_seconds() -> float:
    limits = ShutdownLimits()
    return limits.seconds + limits.notice_seconds


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_follow_the_schemas_of_kubernetes(name: str) -> None:
    judged(tool("kubernetes-validate"), "--strict", name)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_pod_may_do_no_more_than_it_needs(workload: dict[str, Any]) -> None:
    pod = workload["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert {pod["securityContext"][name] for name in ("runAsUser", "runAsGroup")} == {int(of(stages()[-1], "USER")[0])}
    assert container(workload)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounted = {mount["name"]: mount["mountPath"] for mount in container(workload)["volumeMounts"]}
    # The engine, or the server that has one inside, keeps the weights.
    has_engine = "nvidia.com/gpu" in container(workload)["resources"]["limits"]
    assert set(mounted.values()) == ({MODELS, TEMPORARY} if has_engine else {TEMPORARY})
    claimed = {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", ())}
    assert set(mounted) == claimed | {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_pod_gets_no_variables_but_options(workload: dict[str, Any]) -> None:
    # A service that is named qwen-asr would set QWEN_ASR_PORT=tcp://... in every pod.
    assert workload["spec"]["template"]["spec"]["enableServiceLinks"] is False
    assert {variable["name"] for variable in container(workload).get("env", ())} <= VARIABLES
    assert [source["secretRef"]["name"] for source in container(workload)["envFrom"]] == ["qwen-asr"]


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_comments_of_a_manifest_name_variables_that_there_are(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert {"QWEN_ASR_API_KEY"} <= set(re.findall(r"QWEN_ASR_\w+", text)) <= VARIABLES


SERVERS = [
    pytest.param(workloads("docs/kubernetes.yaml")[0], id="qwen-asr"),
    pytest.param(workloads("docs/kubernetes-engines.yaml")[1], id="web"),
]


@pytest.mark.parametrize("workload", SERVERS)
def test_a_server_in_a_pod_has_options_that_there_are(workload: dict[str, Any]) -> None:
    assert unknown_options(container(workload)["args"]) == []


@pytest.mark.parametrize("workload", [parameter.values[0] for parameter in SERVERS], ids=["qwen-asr", "web"])
def test_a_server_in_a_pod_is_asked_and_stopped_as_docs_operate_says(workload: dict[str, Any]) -> None:
    served = container(workload)
    paths = {name: served[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert paths == {"startup": "/healthz", "readiness": "/readyz", "liveness": "/healthz"}
    assert served["ports"] == [{"name": "http", "containerPort": DEFAULT_PORT}]
    program, seconds = served["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    grace = workload["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace >= int(seconds) + stop_seconds() + 5


ENGINE_KEY = "QWEN_ASR_ENGINE_API_KEY"


def test_the_engines_of_the_manifest_are_those_that_the_web_servers_ask() -> None:
    engine, web = workloads("docs/kubernetes-engines.yaml")
    arguments = container(engine)["args"]
    assert arguments[0] in COMMANDS
    port = int(arguments[arguments.index("--port") + 1])
    assert container(engine)["ports"] == [{"name": "engine", "containerPort": port}]
    asked = container(web)["args"]
    [service] = [
        one["metadata"]["name"]
        for one in resources("docs/kubernetes-engines.yaml")
        if one["kind"] == "Service" and one["spec"].get("clusterIP") == "None"
    ]
    assert asked[asked.index("--engine") + 1] == f"ws://{service}:{port}"  # the name has the addresses of all engines
    [key] = [one["valueFrom"]["secretKeyRef"] for one in container(web)["env"] if one["name"] == ENGINE_KEY]
    assert {"secretRef": {"name": key["name"]}} in container(engine)["envFrom"]
    assert key["key"] == "QWEN_ASR_API_KEY"
    assert "nvidia.com/gpu" in container(engine)["resources"]["limits"]
    assert "nvidia.com/gpu" not in container(web)["resources"]["limits"]


@pytest.mark.parametrize("name", MANIFESTS)
def test_what_refers_to_something_in_a_manifest_finds_it(name: str) -> None:
    found = {(one["kind"], one["metadata"]["name"]): one for one in resources(name)}
    labels = [one["spec"]["template"]["metadata"]["labels"].items() for one in workloads(name)]
    for (kind, _), one in found.items():
        if kind == "Service":
            assert any(one["spec"]["selector"].items() <= pod for pod in labels)
        elif kind == "HorizontalPodAutoscaler":
            target = one["spec"]["scaleTargetRef"]
            scaled = found[target["kind"], target["name"]]
            assert "replicas" not in scaled["spec"]  # else each `kubectl apply` sets them back
        elif kind == "Ingress":
            [rule] = one["spec"]["rules"]
            [path] = rule["http"]["paths"]
            service = found["Service", path["backend"]["service"]["name"]]
            assert path["backend"]["service"]["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}
        elif kind in ("Deployment", "StatefulSet"):
            for volume in one["spec"]["template"]["spec"]["volumes"]:
                if "persistentVolumeClaim" in volume:
                    assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in found


def test_autoscaling_asks_for_metrics_that_there_are() -> None:
    documented = set(re.findall(r"^\| `(qwen_asr_\w+)` \| gauge", (ROOT / "docs/operate.md").read_text(), re.M))
    assert len(documented) > 5
    for name in MANIFESTS:
        scalers = [one for one in resources(name) if one["kind"] == "HorizontalPodAutoscaler"]
        asked = {metric["pods"]["metric"]["name"] for one in scalers for metric in one["spec"]["metrics"]}
        assert asked
        assert asked <= documented
