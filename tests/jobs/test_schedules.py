"""The schedules, the Kubernetes files and docs/cluster.md, held to the programs that they call."""

import fcntl
import re
import shutil
import subprocess
import sys
import tomllib
from configparser import RawConfigParser
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import kubernetes_validate
import pytest
import ray
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.kuberay.utils import parse_quantity
from ray.scripts.scripts import cli as ray_cli

from maskbatch import errors
from maskbatch.config import read_toml
from maskbatch.schedule.nights import Schedule
from tests.command_lines import blocks, check, command_lines

ROOT = Path(__file__).parents[2]
SCHEDULES, KUBERNETES = ROOT / "jobs/schedules", ROOT / "jobs/kubernetes"
CRONTAB = (SCHEDULES / "crontab").read_text()
SERVICE, TIMER = (SCHEDULES / f"maskbatch-nightly.{kind}" for kind in ("service", "timer"))
GUIDE = (ROOT / "docs/cluster.md").read_text()
KUBERNETES_VERSION = "1.34"
MANIFESTS = [
    manifest
    for name in ("cluster.yaml", "nightly.yaml")
    for manifest in yaml.safe_load_all((KUBERNETES / name).read_text())
]
CLUSTER, NIGHTLY = (
    next(one for one in MANIFESTS if one["kind"] == kind) for kind in ("RayCluster", "CronJob")
)
JOB = NIGHTLY["spec"]["jobTemplate"]["spec"]
GROUPS = [CLUSTER["spec"]["headGroupSpec"], *CLUSTER["spec"]["workerGroupSpecs"]]
PODS = {"submit": JOB["template"], **{one.get("groupName", "head"): one["template"] for one in GROUPS}}
pods = pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
STARTS = "04:30", "Europe/Paris"
NEVER_AGAIN = {
    errors.UsageError.exit_code,
    errors.TOO_MANY_FAILED_IMAGES,
    errors.ALERT,
    errors.RunLockedError.exit_code,
}


def shown(language: str) -> str:
    """What the guide has in blocks of this language."""
    return "\n".join(blocks(GUIDE, language))


@pytest.mark.parametrize(
    ("text", "at_least"), [(CRONTAB, 2), (SERVICE.read_text().replace("%%", "%"), 3)], ids=("cron", "systemd")
)
def test_every_command_is_one_that_its_program_takes(text: str, at_least: int) -> None:
    lines = command_lines(text)
    assert len(lines) >= at_least
    for program, words in lines:
        check(program, words)


def test_every_file_that_the_guide_names_exists() -> None:
    of_the_checkout = re.findall(r"\b(?:jobs/[\w./-]+|cluster\.yaml)", shown("bash"))
    assert all((ROOT / path).exists() for path in of_the_checkout if path != "cluster.yaml")


def test_what_is_to_be_filled_in_is_what_the_guide_fills_in() -> None:
    for name in (
        "cluster.yaml",
        "jobs/cluster-local.yaml",
        "jobs/kubernetes/cluster.yaml",
        "jobs/kubernetes/nightly.yaml",
    ):
        lines = [line.partition("# ")[0] for line in (ROOT / name).read_text().splitlines()]
        asked = set(re.findall(r"[\w-]+-FILL-IN", "\n".join(lines)))
        assert asked
        for placeholder in asked:
            assert re.search(rf"s[/#]{placeholder}[/#][^\n]*(\\\n[^\n]*)?{re.escape(name)}", GUIDE), (
                name,
                placeholder,
            )


@pytest.mark.parametrize(
    ("timezone", "folder"),
    [("Europe/Paris", "Europe/Paris"), (["UTC-3:30", "a=UTC"], "UTC-0330"), ([], "UTC")],
)
def test_runs_lie_below_a_folder_of_their_zone_that_every_disk_can_have(
    timezone: str | list[str], folder: str
) -> None:
    schedule = Schedule.of(["/srv/archive"], "/srv/reports", {"timezone": timezone})
    assert str(schedule.run("2026-10").path) == f"/srv/reports/{folder}/2026-10"


def test_the_settings_of_the_nights_are_ones_that_the_jobs_take() -> None:
    schedule = Schedule.of(
        ["/srv/archive/{date:%Y/%m/%d}"], "/srv/reports", read_toml(SCHEDULES / "nightly.toml")
    )
    assert schedule.clock.default.key == STARTS[1]
    assert schedule.report_config.alert_below == 0.95
    assert schedule.report_config.alert_by == "camera"
    assert schedule.values["layout"][0].startswith("{captured_at:%Y/%m/%d}")


def test_the_three_schedulers_start_at_one_hour_that_every_day_has_once() -> None:
    hour, minute = STARTS[0].split(":")
    line = CRONTAB.splitlines()[-1]
    assert (
        line.split()[:5]
        == [str(int(minute)), str(int(hour)), "*", "*", "*"]
        == NIGHTLY["spec"]["schedule"].split()
    )
    assert f"\nCRON_TZ={STARTS[1]}\n" in CRONTAB
    assert NIGHTLY["spec"]["timeZone"] == STARTS[1]
    assert unit(TIMER)["Timer"]["OnCalendar"] == f"*-*-* {STARTS[0]}:00 {STARTS[1]}"
    zone, day = ZoneInfo(STARTS[1]), datetime(2026, 1, 1, int(hour), int(minute))
    for when in (day + timedelta(days=k) for k in range(730)):
        early, late = (when.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
        assert early.utcoffset() == late.utcoffset()


# cron


@pytest.fixture
def night(tmp_path: Path) -> str:
    """What cron gives to the shell, in a folder whose maskbatch ends with the code in `code`."""
    program = tmp_path / ".venv/bin/maskbatch"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\necho "ran $*"\nexit $(cat {tmp_path}/code)\n')
    program.chmod(0o755)
    command = CRONTAB.splitlines()[-1].split(maxsplit=5)[5].replace(r"\%", "%")
    return command.replace("/opt/maskbatch", str(tmp_path))


def run(command: str) -> str:
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False
    ).stdout


def test_cron_has_nothing_to_mail_of_a_good_night(night: str, tmp_path: Path) -> None:
    (tmp_path / "code").write_text("0")
    assert run(night) == ""
    assert "{date:%Y/%m/%d}" in (tmp_path / "nightly.log").read_text()


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5])
def test_cron_mails_the_exit_code_and_the_log_of_any_other_night(
    night: str, tmp_path: Path, code: int
) -> None:
    (tmp_path / "code").write_text(str(code))
    assert run(night).startswith(f"maskbatch: exit code {code}\nran nightly ")


def test_cron_starts_no_night_beside_one_that_runs(night: str, tmp_path: Path) -> None:
    (tmp_path / "code").write_text("0")
    (tmp_path / "nightly.log").write_text("a night that runs\n")
    with open(tmp_path / ".nightly.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        said = run(night)
    assert said == f"maskbatch: exit code {errors.RunLockedError.exit_code}\na night that runs\n"


# systemd


def unit(path: Path) -> RawConfigParser:
    parser = RawConfigParser(strict=False, delimiters="=", comment_prefixes="#", inline_comment_prefixes=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text())
    return parser


def test_systemd_takes_both_units(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if not analyze:
        pytest.skip("systemd is not installed here")
    for path in (SERVICE, TIMER):
        text = path.read_text().replace("/opt/maskbatch/.venv/bin/maskbatch", sys.executable)
        (tmp_path / path.name).write_text(text)
    files = [str(tmp_path / path.name) for path in (SERVICE, TIMER)]
    made = subprocess.run(
        [analyze, "verify", *files], capture_output=True, text=True, timeout=60, check=False
    )
    assert (made.returncode, made.stderr) == (0, "")


def test_systemd_counts_a_finished_night_as_one_and_repeats_only_what_may_heal() -> None:
    service = unit(SERVICE)["Service"]
    finished = {errors.TOO_MANY_FAILED_IMAGES, errors.ALERT}
    assert set(map(int, service["SuccessExitStatus"].split())) == finished
    assert set(map(int, service["RestartPreventExitStatus"].split())) == NEVER_AGAIN - finished
    assert (service["Restart"], service["Type"]) == ("on-failure", "oneshot")
    assert 1 < int(unit(SERVICE)["Unit"]["StartLimitBurst"]) < 10
    assert unit(TIMER)["Timer"]["Persistent"] == "true"
    assert TIMER.stem == SERVICE.stem


# Kubernetes


@pytest.mark.parametrize(
    "manifest", [one for one in MANIFESTS if one["kind"] != "RayCluster"], ids=lambda one: one["kind"]
)
def test_kubernetes_takes_the_manifest(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, KUBERNETES_VERSION, strict=True)


@pytest.mark.parametrize("group", GROUPS, ids=lambda one: one.get("groupName", "head"))
def test_kubernetes_takes_the_pods_of_the_cluster(group: dict[str, Any]) -> None:
    template = {
        "apiVersion": "v1",
        "kind": "PodTemplate",
        "metadata": {"name": "-"},
        "template": group["template"],
    }
    kubernetes_validate.validate(template, KUBERNETES_VERSION, strict=True)
    # the fields of KubeRay's own, as its reference has them
    known = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
    assert set(group) <= known
    started = [f"--{name}={value}" for name, value in group["rayStartParams"].items() if value != "true"]
    ray_cli.commands["start"].make_context("start", started)


def test_ray_reads_the_sizes_and_bounds_that_the_cluster_is_meant_to_have() -> None:
    read = _derive_autoscaling_config_from_ray_cr(CLUSTER)
    types = read["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert types["decode"]["resources"]["CPU"] >= 1
    assert types["score"]["resources"].items() >= {"CPU": 0, "GPU": 1}.items()
    assert (types["decode"]["min_workers"], types["score"]["min_workers"]) == (1, 0)
    assert read["idle_timeout_minutes"] == 5
    assert CLUSTER["spec"]["autoscalerOptions"]["version"] == "v2"


def test_the_cluster_asks_for_a_token_which_the_submitting_pod_has() -> None:
    assert CLUSTER["spec"]["authOptions"] == {"mode": "token"}
    given = {entry["name"]: entry for entry in JOB["template"]["spec"]["containers"][0]["env"]}
    assert given["RAY_AUTH_MODE"]["value"] == "token"
    wanted = {"name": CLUSTER["metadata"]["name"], "key": "auth_token"}
    assert given["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"] == wanted


def test_only_the_submitting_pod_reaches_the_dashboard() -> None:
    rules = next(one for one in MANIFESTS if one["kind"] == "NetworkPolicy")["spec"]
    own = {"ray.io/cluster": CLUSTER["metadata"]["name"]}
    assert rules["podSelector"] == {"matchLabels": own}
    between, submitting = rules["ingress"]
    assert between == {"from": [{"podSelector": {"matchLabels": own}}]}
    assert submitting["from"] == [{"podSelector": {"matchLabels": JOB["template"]["metadata"]["labels"]}}]
    assert [port["port"] for port in submitting["ports"]] == [8265]


@pods
def test_every_pod_meets_the_restricted_standard_that_the_namespace_enforces(pod: dict[str, Any]) -> None:
    spec = pod["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    contexts = [container["securityContext"] for container in spec["containers"]]
    for context in (*contexts, CLUSTER["spec"]["autoscalerOptions"]["securityContext"]):
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}


@pods
def test_only_the_head_whose_autoscaler_needs_it_has_a_token_of_kubernetes(pod: dict[str, Any]) -> None:
    is_head = pod is GROUPS[0]["template"]
    assert pod["spec"].get("automountServiceAccountToken", True) is is_head


def test_every_pod_fits_a_node_of_8_cores_and_16_gb() -> None:
    # GKE, which keeps most for itself, leaves 7.9 CPUs and 13.3 GiB of one, and runs a few pods of its own there.
    for pod in PODS.values():
        asked = [container["resources"]["requests"] for container in pod["spec"]["containers"]]
        if pod is GROUPS[0]["template"]:
            asked.append(CLUSTER["spec"]["autoscalerOptions"]["resources"]["requests"])
        assert sum(parse_quantity(one["cpu"]) for one in asked) <= 7
        assert sum(parse_quantity(one["memory"]) for one in asked) <= 12.5 * 2**30


@pods
def test_every_pod_may_be_pulled_from_a_private_registry(pod: dict[str, Any]) -> None:
    accounts = {one["metadata"]["name"]: one for one in MANIFESTS if one["kind"] == "ServiceAccount"}
    source = accounts.get(pod["spec"].get("serviceAccountName"), pod["spec"])
    (secret,) = source["imagePullSecrets"]
    assert f"create secret docker-registry {secret['name']} " in GUIDE


def test_kubernetes_repeats_only_what_may_heal_and_never_two_nights_at_once() -> None:
    stop, disrupted = JOB["podFailurePolicy"]["rules"]
    assert stop["action"] == "FailJob"
    assert set(stop["onExitCodes"]["values"]) == NEVER_AGAIN
    assert stop["onExitCodes"]["containerName"] == JOB["template"]["spec"]["containers"][0]["name"]
    assert disrupted["action"] == "Ignore"
    assert JOB["template"]["spec"]["restartPolicy"] == "Never"  # podFailurePolicy asks for it
    assert JOB["backoffLimit"] > 0
    assert NIGHTLY["spec"]["concurrencyPolicy"] == "Forbid"
    assert JOB["activeDeadlineSeconds"] < 24 * 3600
    assert NIGHTLY["spec"]["startingDeadlineSeconds"] < 24 * 3600


def test_the_submitting_pod_calls_what_the_job_takes_with_files_that_it_has() -> None:
    pod = JOB["template"]["spec"]
    container = pod["containers"][0]
    words = [*container["command"], *container["args"]]
    assert words[:2] == ["python", "-m"]
    check(" ".join(words[:3]), words[3:])
    assert f"http://{CLUSTER['metadata']['name']}-head-svc:8265" in words
    assert "--follow" in container["command"]
    workdir = re.search(r"^WORKDIR (.+)", (KUBERNETES / "Dockerfile").read_text(), re.MULTILINE)
    config = next(mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "config")
    assert workdir and f"{config}/nightly.toml" == f"{workdir[1]}/{words[words.index('--include') + 1]}"
    named = next(volume["configMap"]["name"] for volume in pod["volumes"] if volume["name"] == "config")
    assert f"create configmap {named} --from-file nightly.toml" in GUIDE


def test_the_images_and_versions_are_this_projects() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = {container["image"] for pod in PODS.values() for container in pod["spec"]["containers"]}
    assert images == {f"REGISTRY-FILL-IN/maskbatch:{version}"}
    assert GUIDE.count(f"$REGISTRY/maskbatch:{version}") == 2
    assert CLUSTER["spec"]["rayVersion"] == ray.__version__


def test_the_image_is_built_of_files_that_exist() -> None:
    dockerfile = (KUBERNETES / "Dockerfile").read_text()
    copied = [
        name for line in re.findall(r"^COPY (.+)", dockerfile, re.MULTILINE) for name in line.split()[:-1]
    ]
    assert {"requirements.lock", "pyproject.toml", "README.md", "LICENSE", "maskbatch", "jobs"} == set(copied)
    assert all((ROOT / name).exists() for name in copied)
    user = str(PODS["submit"]["spec"]["securityContext"]["runAsUser"])
    assert f"\nUSER {user}\n" in dockerfile and f"--uid {user} " in dockerfile
