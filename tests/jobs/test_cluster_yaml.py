"""The cluster files, held to Ray's own schema, preparation and command line, and to what EC2 accepts."""

import copy
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.stub import Stubber
from botocore.validate import ParamValidator
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.aws.utils import resource_cache
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import FileConfigReader
from ray.scripts.scripts import cli as ray_cli

from maskbatch.cluster.launcher import read_nodes

ROOT = Path(__file__).parents[2]
FILES = ("cluster.yaml", "jobs/cluster-local.yaml")
AWS, LOCAL = (yaml.safe_load((ROOT / name).read_text()) for name in FILES)
ACCESS = yaml.safe_load((ROOT / "jobs/aws-access.yaml").read_text())["Resources"]
WORKERS = {name: kind for name, kind in AWS["available_node_types"].items() if name != AWS["head_node_type"]}
HEAD = AWS["available_node_types"][AWS["head_node_type"]]
EC2 = ServiceModel(Loader().load_service_model("ec2", "service-2"))
both = pytest.mark.parametrize("cluster", (AWS, LOCAL), ids=FILES)


def starts(cluster: dict[str, Any]) -> dict[str, str]:
    """The `ray start` of head and workers."""
    kinds = {kind: cluster[f"{kind}_start_ray_commands"] for kind in ("head", "worker")}
    return {kind: next(line for line in lines if "ray start" in line) for kind, lines in kinds.items()}


def flags(line: str) -> dict[str, Any]:
    """What Ray makes of a `ray start`; click.UsageError where it does not know a flag."""
    words = shlex.split(line.partition("ray start ")[2].replace("$RAY_HEAD_IP", "10.0.0.1"))
    return dict(ray_cli.commands["start"].make_context("start", words).params)


@both
def test_ray_prepares_and_accepts_the_file(cluster: dict[str, Any]) -> None:
    validate_config(prepare_config(copy.deepcopy(cluster)))


@both
def test_the_head_reads_what_ray_up_sends_it_and_sets_a_worker_up_once(
    cluster: dict[str, Any], tmp_path: Path
) -> None:
    sent = tmp_path / "ray_bootstrap_config.yaml"
    sent.write_text(json.dumps(prepare_config(copy.deepcopy(cluster))))
    read = FileConfigReader(str(sent)).get_cached_autoscaling_config()
    for kind in WORKERS if cluster is AWS else ["local.cluster.node"]:
        assert read.get_worker_setup_commands(kind) == cluster["worker_setup_commands"]
    assert read.get_worker_start_ray_commands() == cluster["worker_start_ray_commands"]


@both
def test_nothing_is_scheduled_on_the_head(cluster: dict[str, Any]) -> None:
    assert flags(starts(cluster)["head"])["num_cpus"] == 0
    assert not flags(starts(cluster)["head"])["num_gpus"]
    assert HEAD["resources"] == {"CPU": 0}
    assert HEAD["max_workers"] == 0


@both
def test_every_node_asks_for_the_token_and_the_dashboard_stays_on_loopback(cluster: dict[str, Any]) -> None:
    for line in starts(cluster).values():
        assert re.search(r"(^|[; ])RAY_AUTH_MODE=token ~/env/bin/ray start ", line)
    head = flags(starts(cluster)["head"])
    assert head["dashboard_host"] == "127.0.0.1"
    assert head["ray_client_server_port"] is None
    assert "~/ray_bootstrap_config.yaml" in starts(cluster)["head"]
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in cluster["worker_setup_commands"]


def test_no_machine_is_left_out() -> None:
    # Seen with Ray 2.60 on three machines: the second autoscaler, which `ray up` asks for, starts two of them.
    assert "RAY_enable_autoscaler_v2=0 " in starts(LOCAL)["head"]
    prepared = prepare_config(copy.deepcopy(LOCAL))
    bounds = prepared["available_node_types"]["local.cluster.node"]
    assert bounds["min_workers"] == bounds["max_workers"] == len(LOCAL["provider"]["worker_ips"])


@both
def test_every_file_that_it_names_exists(cluster: dict[str, Any]) -> None:
    mounts = {there: here for there, here in cluster["file_mounts"].items() if not here.startswith("~")}
    assert all((ROOT / here).exists() for here in mounts.values())
    used = re.findall(r"~/maskbatch/[\w./]+", " ".join(cluster["head_setup_commands"]))
    assert used
    assert set(used) <= set(mounts)
    # what hatchling asks for when it builds the package from them
    project = (ROOT / "pyproject.toml").read_text()
    for named in re.findall(r'"(README.md|LICENSE|maskbatch)"', project):
        assert f"~/maskbatch/{named}" in mounts


def test_both_clusters_are_set_up_alike() -> None:
    for name in ("file_mounts", "rsync_exclude", "head_setup_commands", "worker_start_ray_commands"):
        assert AWS[name] == LOCAL[name], name
    assert AWS["head_setup_commands"] == AWS["worker_setup_commands"]


def test_a_shell_of_a_node_has_the_environment_once_however_often_it_is_set_up(tmp_path: Path) -> None:
    line = next(line for line in AWS["head_setup_commands"] if ".bashrc" in line)
    home = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    (tmp_path / ".bashrc").touch()
    for _ in range(2):
        subprocess.run(["bash", "-c", line], env=home, check=True)
    assert (tmp_path / ".bashrc").read_text().count("\n") == 1
    shown = "source ~/.bashrc; echo $RAY_AUTH_MODE $PATH"
    told = subprocess.run(["bash", "-c", shown], env=home, check=True, capture_output=True, text=True).stdout
    assert told.startswith(f"token {tmp_path}/env/bin:")


@both
def test_every_command_is_a_line_that_bash_understands(cluster: dict[str, Any]) -> None:
    for name, lines in cluster.items():
        for line in lines if name.endswith("_commands") else ():
            subprocess.run(["bash", "-n", "-c", line], check=True)


def test_the_nodes_get_the_pinned_ray_which_is_the_one_these_files_are_tested_with() -> None:
    assert any("--requirements ~/maskbatch/requirements.lock" in line for line in AWS["head_setup_commands"])
    assert f"\nray=={ray.__version__}\n" in (ROOT / "requirements.lock").read_text()


def test_the_bounds_are_sane() -> None:
    for kind in WORKERS.values():
        assert 0 <= kind["min_workers"] <= kind["max_workers"]
    assert AWS["max_workers"] == sum(kind["max_workers"] for kind in WORKERS.values())
    assert WORKERS["score"]["min_workers"] == 0
    assert 1 <= AWS["idle_timeout_minutes"] <= 15
    nodes = {node.name: node for node in read_nodes(ROOT / "cluster.yaml")}
    assert nodes["decode"].num_cpus * nodes["decode"].max_nodes > 0
    assert nodes["score"].num_gpus == 1


def test_workers_are_spot_and_the_head_is_not() -> None:
    assert "InstanceMarketOptions" not in HEAD["node_config"]
    for kind in WORKERS.values():
        assert kind["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


def test_no_node_is_open_to_the_world_or_gives_its_credentials_to_a_forged_request() -> None:
    for kind in (HEAD, *WORKERS.values()):
        node = kind["node_config"]
        assert node["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}
        assert node["SecurityGroupIds"] == ["sg-FILL-IN"]  # else Ray makes one that lets anyone try ssh
        assert node["BlockDeviceMappings"][0]["Ebs"]["Encrypted"]
    opened = ACCESS["Group"]["Properties"]["SecurityGroupIngress"]
    assert [(rule["FromPort"], rule["ToPort"], rule["CidrIp"]) for rule in opened] == [
        (22, 22, {"Ref": "SshFrom"})
    ]
    others = [entry for entry in ACCESS.values() if entry["Type"] == "AWS::EC2::SecurityGroupIngress"]
    assert ["CidrIp" in entry["Properties"] for entry in others] == [False]


@pytest.mark.parametrize("name", AWS["available_node_types"])
def test_ec2_knows_every_field_and_type_of_a_node(name: str) -> None:
    node = AWS["available_node_types"][name]["node_config"]
    found = ParamValidator().validate(
        {**node, "MinCount": 1, "MaxCount": 1}, EC2.operation_model("RunInstances").input_shape
    )
    assert not found.has_errors(), found.generate_report()
    assert node["InstanceType"] in EC2.shape_for("InstanceType").enum


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stubber]:
    """An account that answers what `ray up` asks, in its order; botocore checks both sides."""
    for name, value in {
        "HOME": str(tmp_path),
        "AWS_ACCESS_KEY_ID": "-",
        "AWS_SECRET_ACCESS_KEY": "-",
    }.items():
        monkeypatch.setenv(name, value)
    region = AWS["provider"]["region"]
    key = f"ray-autoscaler_{region}"
    (tmp_path / ".ssh").mkdir()
    (tmp_path / f".ssh/{key}.pem").touch()
    resource_cache.cache_clear()
    with Stubber(resource_cache("ec2", region).meta.client) as stub:
        stub.add_response("describe_key_pairs", {"KeyPairs": [{"KeyName": key}]})
        group = {"GroupId": "sg-FILL-IN", "VpcId": "vpc-1"}
        stub.add_response("describe_security_groups", {"SecurityGroups": [group]})
        subnets = [
            {
                "SubnetId": f"subnet-{zone}",
                "VpcId": "vpc-1",
                "State": "available",
                "MapPublicIpOnLaunch": True,
                "AvailabilityZone": f"{region}{zone}",
            }
            for zone in "ab"
        ]
        stub.add_response("describe_subnets", {"Subnets": subnets})
        yield stub
    resource_cache.cache_clear()


def test_ray_up_completes_the_nodes_and_changes_nothing_that_the_file_says(cloud: Stubber) -> None:
    made = bootstrap_aws(prepare_config(copy.deepcopy(AWS)))
    cloud.assert_no_pending_responses()
    for name, kind in AWS["available_node_types"].items():
        node = made["available_node_types"][name]["node_config"]
        assert node.items() >= kind["node_config"].items()
        assert node["SubnetIds"] == ["subnet-b", "subnet-a"]
        assert node["KeyName"] == f"ray-autoscaler_{AWS['provider']['region']}"
    assert made["head_node"] == {}  # no role of Ray's own making, which would have all of EC2 and S3


def statements(name: str) -> list[dict[str, Any]]:
    return list(ACCESS[name]["Properties"]["PolicyDocument"]["Statement"])


def actions(statement: dict[str, Any]) -> set[str]:
    named = statement["Action"]
    return {named} if isinstance(named, str) else set(named)


def test_the_nodes_may_read_the_archive_write_the_reports_and_no_more() -> None:
    said = {entry["Sid"]: entry for entry in statements("Buckets")}
    assert {name: actions(entry) for name, entry in said.items()} == {
        "ListArchive": {"s3:ListBucket"},
        "ReadArchive": {"s3:GetObject"},
        "ListReports": {"s3:ListBucket"},
        "WriteReports": {"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"},
    }
    written = said["WriteReports"]["Resource"]["Fn::Sub"]
    assert written.endswith(":${ReportsBucket}/${ReportsPrefix}/*")
    assert all(
        "${ReportsPrefix}" in text or text == "ReportsPrefix"
        for text in _texts(said["ListReports"]["Condition"])
    )
    managed = [entry for entry in ACCESS.values() if entry["Type"] == "AWS::IAM::ManagedPolicy"]
    assert len(managed) == 2
    assert ACCESS["Scaling"]["Properties"]["Roles"] == [{"Ref": "Head"}]
    for role in ("Head", "Worker"):
        assert set(ACCESS[role]["Properties"]) == {"RoleName", "AssumeRolePolicyDocument"}


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [text for item in (value.values() if isinstance(value, dict) else value) for text in _texts(item)]


def test_the_head_may_start_these_workers_only_and_end_no_other_machine() -> None:
    said = {entry["Sid"]: entry for entry in statements("Scaling")}
    assert {action for entry in said.values() for action in actions(entry)} == {
        "ec2:DescribeInstances", "ec2:RunInstances", "ec2:CreateTags", "ec2:TerminateInstances", "iam:PassRole"
    }  # fmt: skip
    asked = said["StartNodes"]["Condition"]["StringEquals"]
    types = {kind["node_config"]["InstanceType"] for kind in WORKERS.values()}
    assert set(asked["ec2:InstanceType"]) == types
    assert asked["aws:RequestTag/ray-cluster-name"] == AWS["cluster_name"]
    ended = said["KeepAndEndItsNodes"]["Condition"]["StringEquals"]
    assert ended == {"aws:ResourceTag/ray-cluster-name": AWS["cluster_name"]}
    assert [name for name, entry in said.items() if entry["Resource"] == "*"] == ["SeeNodes"]


def test_the_roles_that_the_nodes_take_are_made_under_these_names() -> None:
    made = {
        entry["Properties"]["InstanceProfileName"]
        for entry in ACCESS.values()
        if entry["Type"] == "AWS::IAM::InstanceProfile"
    }
    assert HEAD["node_config"]["IamInstanceProfile"]["Name"] == "maskbatch-head"
    assert {kind["node_config"]["IamInstanceProfile"]["Name"] for kind in WORKERS.values()} == {
        "maskbatch-worker"
    }
    assert made == {"maskbatch-head", "maskbatch-worker"}
