#!/usr/bin/env python3
"""The scripts, run as they stand: the real AWS CLI against moto, and a docker that builds nothing.

Usage: check_scripts.py

Each bringup and teardown is cut behind every change that it makes, and each change is refused once.
What is there is always listed through AWS's own interface.

One line is printed for each check, and at the end 'N passed, N failed'.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3

import cli

ROOT = Path(__file__).resolve().parents[2]
REGION = "us-west-2"
ACCOUNT = "123456789012"
NAMES = ("CONSUMERKEY", "CONSUMERSECRETKEY", "ACCESSTOKEN", "ACCESSTOKENSECRET")
KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/0e7ae0a5-0000-4000-8000-000000000000"
FULL = ("--rotation-queue", "--alarm", "ops@example.com", "--customer-key",
              KEY, "--vpc-endpoint", "vpce-0123456789abcdef0", "--env", "FILTER=a, b=c $REGION")
EVERYTHING = ("--model", "both", *FULL)

MOTO = """
import json, logging, os, signal
from moto.ecs.models import EC2ContainerServiceBackend
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

# It adds up what the containers ask for, and fails where they leave that to the task as Fargate's may.
EC2ContainerServiceBackend._calculate_task_resource_requirements = lambda *_: {
    "CPU": 0, "MEMORY": 0, "PORTS": [], "PORTS_UDP": []}
logging.getLogger("werkzeug").setLevel(logging.ERROR)
moto = DomainDispatcherApplication(create_backend_app)

def serve():
    global server
    server = make_server("127.0.0.1", 0, application, threaded=True)
    return server.server_port

def application(environ, start_response):
    if environ["PATH_INFO"] != "/fork":
        return moto(environ, start_response)
    # The account as it is now, once more, at a port of its own.
    ours, theirs = os.pipe()
    if not os.fork():
        server.socket.close()
        os.write(theirs, json.dumps([serve(), os.getpid()]).encode())
        server.serve_forever()
    start_response("200 OK", [])
    return [os.read(ours, 100)]

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print(serve(), flush=True)
server.serve_forever()
"""


class Report:
    """Counts the checks; prints one line for each."""

    def __init__(self) -> None:
        self.passed = self.failed = 0
        self.lock = threading.Lock()

    def check(self, what: str, holds: bool, detail: object = "") -> None:
        """Notes whether `what` holds; `detail` is shown only where it does not."""
        with self.lock:
            self.passed += holds
            self.failed += not holds
            print(f"ok    {what}" if holds else f"FAIL  {what}: {str(detail)[:3000]}", flush=True)

    def equal(self, what: str, found: object, expected: object) -> None:
        """Notes whether both are the same."""
        if isinstance(found, dict) and isinstance(expected, dict):
            differing = {key for key in {*found, *expected} if found.get(key) != expected.get(key)}
            found, expected = ({key: each.get(key) for key in differing} for each in (found, expected))
        self.check(what, found == expected, f"found {found!r}, expected {expected!r}")


class Run:
    """A script that has ended."""

    def __init__(self, world: World, name: str, arguments: tuple[str, ...],
                 process: subprocess.CompletedProcess[str]) -> None:
        self.code, self.out, self.err = process.returncode, process.stdout, process.stderr
        self.calls: list[tuple[str, list[str]]] = world.calls()
        self.name = f"{name} {' '.join(arguments)}"

    def __str__(self) -> str:
        return f"{self.name}: exit {self.code}\n{self.out[-1500:]}\n{self.err[-1500:]}"


class World:
    """An AWS account of one's own, in which the scripts run."""

    def __init__(self, report: Report, folder: Path, url: str) -> None:
        self.report = report
        self.url = url
        self.folder = Path(tempfile.mkdtemp(dir=folder))
        self.plan = self.folder / "plan"
        self.calls_file = self.folder / "calls"
        self.forks_file = self.folder / "forks"
        self.values = {name: f"{name}-{secrets.token_hex(8)}" for name in NAMES}
        self.environment = {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "HOME": str(self.folder),
            "TMPDIR": str(self.folder), "LANG": "C.UTF-8", "CLI_PLAN": str(self.plan),
            "AWS_ENDPOINT_URL": self.url, "AWS_ACCESS_KEY_ID": "AKIAOPERATOR",
            "AWS_SECRET_ACCESS_KEY": "operator", "AWS_MAX_ATTEMPTS": "1",
            "AWSACCOUNT": ACCOUNT, "REGION": REGION, "WAIT_SECONDS": "0.05", "WAIT_TRIES": "40",
        }

    @contextlib.contextmanager
    def copy(self, fork: tuple[int, int] | None = None) -> Iterator[World]:
        """The account as it is, or was at a fork, once more."""
        port, pid = fork or json.loads(self.post("/fork"))
        try:
            other = World(self.report, self.folder.parent, f"http://127.0.0.1:{port}")
            other.values = self.values
            subnets = {name: self.environment[name] for name in ("SUBNET1", "SUBNET2", "SECURITYGROUP")}
            other.environment.update(subnets)
            yield other
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def client(self, service: str) -> Any:
        """A client of the account."""
        return boto3.client(service, region_name=REGION, endpoint_url=self.url,
                            aws_access_key_id="AKIAOPERATOR", aws_secret_access_key="operator")

    def post(self, path: str, body: object = None) -> bytes:
        """A request of moto's own."""
        data = b"" if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()

    def reset(self, values: bool = True) -> None:
        """A fresh account: a VPC with two subnets, and the four secrets."""
        self.post("/moto-api/reset")
        # A task stays in its state however often it is looked at.
        self.post("/moto-api/state-manager/set-transition",
                  {"model_name": "ecs::task", "transition": {"progression": "manual", "times": 10**6}})
        ec2 = self.client("ec2")
        found = [subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"]]
        group = ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
        self.environment.update(SUBNET1=found[0], SUBNET2=found[1], SECURITYGROUP=group)
        if values:
            secretsmanager = self.client("secretsmanager")
            for name, value in self.values.items():
                secretsmanager.create_secret(Name=name, SecretString=value)

    def run(self, script: str, *arguments: str, stdin: str = "", refuse: int = 0, kill: int = 0,
            fork: bool = False, code: str = "AccessDeniedException", **variables: str) -> Run:
        """Runs a script to its end, which may be the kill."""
        self.calls_file.write_text("")
        forks = str(self.forks_file) if fork else None
        self.plan.write_text(json.dumps(
            {"calls": str(self.calls_file), "refuse": refuse, "kill": kill, "fork": forks,
             "code": code}))
        environment = {**self.environment, **variables}
        process = subprocess.run([ROOT / "scripts" / f"{script}.sh", *arguments], env=environment,
                                 input=stdin, capture_output=True, text=True, timeout=300,
                                 start_new_session=True)
        run = Run(self, script, arguments, process)
        shown = [value for value in self.values.values() if value in run.out + run.err]
        argued = [value for value in self.values.values() if value in json.dumps(run.calls)]
        if shown or argued:
            self.report.check(f"{run.name}: no value is shown or an argument", False, shown + argued)
        return run

    def calls(self) -> list[tuple[str, list[str]]]:
        """The changes of the last run."""
        return [tuple(json.loads(line)) for line in self.calls_file.read_text().splitlines()]

    def forks(self) -> list[tuple[int, int]]:
        """Ports and process ids of the copies that a run with `fork` has left, one for each change."""
        lines = self.forks_file.read_text().splitlines()
        return [tuple(json.loads(json.loads(line)[1][0])) for line in lines]

    def resources(self) -> dict[str, Any]:
        """All that the account holds, but for what it came with; listed, not remembered."""
        ecs, iam, events = self.client("ecs"), self.client("iam"), self.client("events")
        sqs, sns = self.client("sqs"), self.client("sns")
        found: dict[str, Any] = {
            "repositories": {each["repositoryName"]: self.images(each["repositoryName"]) for each in
                             self.client("ecr").describe_repositories()["repositories"]},
            "tables": self.client("dynamodb").list_tables()["TableNames"],
            "log groups": {each["logGroupName"]: each.get("retentionInDays") for each in
                           self.client("logs").describe_log_groups()["logGroups"]},
            "roles": {role["RoleName"]: [role["AssumeRolePolicyDocument"], {
                name: iam.get_role_policy(RoleName=role["RoleName"], PolicyName=name)["PolicyDocument"]
                for name in iam.list_role_policies(RoleName=role["RoleName"])["PolicyNames"]
            }] for role in iam.list_roles()["Roles"]},
            "rules": {rule["Name"]: [rule["State"], json.loads(rule["EventPattern"]), [
                target["Arn"] for target in events.list_targets_by_rule(Rule=rule["Name"])["Targets"]
            ]] for rule in events.list_rules()["Rules"]},
            "queues": {url: sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["Policy"])
                       .get("Attributes") for url in sqs.list_queues().get("QueueUrls", [])},
            "topics": {topic["TopicArn"]: json.loads(sns.get_topic_attributes(
                TopicArn=topic["TopicArn"])["Attributes"]["Policy"])
                for topic in sns.list_topics()["Topics"]},
            "subscriptions": [each["Endpoint"] for each in sns.list_subscriptions()["Subscriptions"]],
            "clusters": [], "services": {}, "tasks": [], "task definitions": {},
        }
        clusters = ecs.describe_clusters(clusters=ecs.list_clusters()["clusterArns"])["clusters"]
        for cluster in clusters:
            if cluster["status"] != "ACTIVE":
                continue
            name = cluster["clusterName"]
            found["clusters"].append(name)
            arns = ecs.list_services(cluster=name)["serviceArns"]
            for each in ecs.describe_services(cluster=name, services=arns)["services"] if arns else []:
                # ECS shows a service for a while after its end.
                if each["status"] == "INACTIVE":
                    continue
                definition = each["taskDefinition"].rpartition("/")[2].partition(":")[0]
                found["services"][each["serviceName"]] = [definition, each["desiredCount"]]
            arns = ecs.list_tasks(cluster=name, desiredStatus="RUNNING")["taskArns"]
            for each in ecs.describe_tasks(cluster=name, tasks=arns)["tasks"] if arns else []:
                found["tasks"].append(each["taskDefinitionArn"].rpartition("/")[2].partition(":")[0])
        for status in ("ACTIVE", "INACTIVE"):
            for arn in ecs.list_task_definitions(status=status)["taskDefinitionArns"]:
                definition = ecs.describe_task_definition(taskDefinition=arn)["taskDefinition"]
                found["task definitions"][f"{definition['family']} {status}"] = {
                    key: definition.get(key) for key in
                    ("containerDefinitions", "volumes", "runtimePlatform", "cpu", "memory")}
        found["tasks"].sort()
        # A queue's address has the port in it, which a copy has another one of.
        text = json.dumps({kind: value for kind, value in found.items() if value}, sort_keys=True)
        return json.loads(text.replace(self.url, "http://aws"))

    def images(self, repository: str) -> list[str]:
        """The tags in a repository."""
        images = self.client("ecr").describe_images(repositoryName=repository)["imageDetails"]
        return sorted(tag for image in images for tag in image["imageTags"])

    def bound_secrets(self) -> list[str]:
        """The secrets that have a resource policy."""
        client = self.client("secretsmanager")
        return [name for name in NAMES if client.get_resource_policy(SecretId=name).get("ResourcePolicy")]

    def labels(self) -> dict[str, dict[str, str]]:
        """Of each secret the value behind each staging label."""
        client = self.client("secretsmanager")
        return {name: {
            label: client.get_secret_value(SecretId=name, VersionId=version)["SecretString"]
            for version, labels in client.describe_secret(SecretId=name)["VersionIdsToStages"].items()
            for label in labels
        } for name in NAMES}


# --- bringup.sh and teardown.sh --------------------------------------------------------------------


def check_bringup(world: World) -> None:
    """Everything is made, a second time nothing, and teardown leaves the secrets only."""
    report = world.report
    dry = world.run("bringup", *EVERYTHING, "--dry-run")
    report.equal("a dry run of bringup.sh changes nothing", (dry.code, dry.calls, world.resources()),
                 (0, [], {}))
    first = world.run("bringup", *EVERYTHING)
    report.equal("bringup.sh of both models with everything ends with 0", first.code, 0)
    report.check("bringup.sh says which task runs, and where its log is", "running: arn:" in first.out
                 and "stream twitterstream/twitterstream/" in first.out, first)
    said = [line.removeprefix("would ") for line in dry.out.splitlines() if line.startswith("would ")]
    report.equal("a dry run names every change", [line for line in said if line not in first.out], [])
    found = world.resources()
    report.equal("it makes what it should", {kind: sorted(value) for kind, value in found.items()}, {
        "repositories": ["twitterstream"], "tables": ["twitterStream"], "log groups": ["twitterstream"],
        "roles": sorted(f"twitterstream-{model}-task-{role}" for model in ("embedded", "injected")
                        for role in ("role", "execution-role")),
        "rules": ["twitterstream-rotations", "twitterstream-secret-access"],
        "queues": sorted(found["queues"]), "topics": sorted(found["topics"]),
        "subscriptions": ["ops@example.com"], "clusters": ["twitterstream_cluster"],
        "services": ["twitterstream-embedded", "twitterstream-injected"],
        "tasks": ["twitterstream-embedded", "twitterstream-injected"],
        "task definitions": ["twitterstream-embedded ACTIVE", "twitterstream-injected ACTIVE"],
    })
    report.equal("the four secrets are bound to the endpoint", world.bound_secrets(), list(NAMES))
    left = [word for word in ("$REGION", "$AWSACCOUNT", "$CUSTOMERKEY", "$VPCENDPOINT", "XXXXXX")
            if word in json.dumps(found).replace("a, b=c $REGION", "")]
    report.equal("no placeholder is left", left, [])
    containers = {family: definition["containerDefinitions"][0] for family, definition
                  in found["task definitions"].items()}
    injected = containers["twitterstream-injected ACTIVE"]
    arns = {name: world.client("secretsmanager").describe_secret(SecretId=name)["ARN"] for name in NAMES}
    report.equal("the injected model's secrets are there by their whole ARNs",
                 {each["name"]: each["valueFrom"] for each in injected["secrets"]}, arns)
    variables = {each["name"]: each["value"]
                 for each in containers["twitterstream-embedded ACTIVE"]["environment"]}
    report.equal("a variable of --env is taken to the letter", variables["FILTER"], "a, b=c $REGION")
    report.check("the queue is told to the embedded model alone", "ROTATION_QUEUE_URL" in variables
                 and "ROTATION_QUEUE_URL" not in json.dumps(injected), variables)
    report.check("images are named by digest", all("@sha256:" in each["image"]
                                                   for each in containers.values()), containers)
    check_the_alarm(world)
    again = world.run("bringup", *EVERYTHING)
    changes = [call for call, _ in again.calls if not call.startswith("docker")]
    report.equal("a second bringup.sh changes nothing", (again.code, changes, world.resources()),
                 (0, [], found))
    changed = world.run("bringup", *EVERYTHING, "--env", "FILTER=other")
    report.equal("another FILTER is a new revision and an update of the service, and nothing else",
                 [call for call, _ in changed.calls if not call.startswith("docker")],
                 ["aws ecs register-task-definition"] * 2 + ["aws ecs update-service"] * 2)
    dry = world.run("teardown", "--dry-run")
    report.equal("a dry run of teardown.sh changes nothing", (dry.code, dry.calls), (0, []))
    down = world.run("teardown")
    report.equal("teardown.sh leaves nothing but the secrets", (down.code, world.resources()), (0, {}))
    report.equal("and they are free again", world.bound_secrets(), [])
    report.check("it says that they are left", all(f"the secret {name}" in down.out for name in NAMES), down)
    again = world.run("teardown")
    report.equal("a second teardown.sh changes nothing", (again.code, again.calls), (0, []))


def check_the_alarm(world: World) -> None:
    """Its pattern, judged by moto's EventBridge."""
    from moto.events.models import EventPattern

    pattern = world.client("events").describe_rule(Name="twitterstream-secret-access")["EventPattern"]
    embedded = f"arn:aws:sts::{ACCOUNT}:assumed-role/twitterstream-embedded-task-role/abc"
    injected = f"arn:aws:sts::{ACCOUNT}:assumed-role/twitterstream-injected-task-execution-role/abc"
    arn = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret"
    worker, stranger = "aws-sdk-rust/1.3 ua/2.1 lang/rust/1.95 app/twitterstream-0.1.0", "aws-cli/2.27 md/awscrt"
    found = []
    for who, secret, name, user_agent in (
        (embedded, "ACCESSTOKEN", "GetSecretValue", worker),
        (injected, f"{arn}:ACCESSTOKEN-AbCdEf", "GetSecretValue", "ecs-agent"),
        (f"arn:aws:iam::{ACCOUNT}:user/someone", "CONSUMERKEY", "GetSecretValue", worker),
        (f"arn:aws:sts::{ACCOUNT}:assumed-role/twitterstream-injected-task-role/a",
         f"{arn}:CONSUMERSECRETKEY-AbCdEf", "GetSecretValue", stranger),
        (embedded, "CONSUMERKEY", "GetSecretValue", stranger),
        (embedded, "CONSUMERKEY", "DescribeSecret", stranger),
        (f"arn:aws:iam::{ACCOUNT}:user/someone", "another", "GetSecretValue", stranger),
    ):
        event = {"source": "aws.secretsmanager", "detail-type": "AWS API Call via CloudTrail",
                 "detail": {"eventSource": "secretsmanager.amazonaws.com", "eventName": name,
                            "requestParameters": {"secretId": secret}, "userIdentity": {"arn": who},
                            "userAgent": user_agent}}
        found.append(EventPattern.load(pattern).matches_event(event))
    world.report.equal("the alarm is for others than the tasks that read one of the four, and for another "
                       "program with the task role", found, [False, False, True, True, True, False, False])


def check_cut_bringups(world: World, forks: list[tuple[int, int]]) -> None:
    """Behind whichever change bringup.sh ends, teardown.sh takes down what is there."""
    wrong = []
    for number, fork in enumerate(forks, 1):
        with world.copy(fork) as cut:
            before = cut.resources()
            down = cut.run("teardown")
            left, bound = cut.resources(), cut.bound_secrets()
            if not before or down.code or left or bound:
                wrong.append((number, before.keys(), left, bound, str(down)))
    world.report.check(f"behind each of {len(forks)} changes of bringup.sh, teardown.sh leaves nothing "
                       "but the secrets", len(forks) > 0 and not wrong, wrong)


def check_stops(world: World, script: str, arguments: tuple[str, ...], expected: object, kill: int) -> None:
    """Stopped behind every change and run again each time, it comes to the same end.

    Every other time it is killed; in between AWS refuses the next change, which the script must tell.
    """
    wrong, kills, refusals = [], 0, 0
    for number in range(200):
        if number % 2 == kill:
            run = world.run(script, *arguments, kill=1)
            if not run.calls:
                break
            kills += 1
            told = run.code == -9
        else:
            run = world.run(script, *arguments, refuse=2)
            if len(run.calls) < 2:
                break
            refusals += 1
            words = ("failed: ", "AccessDenied", "have it granted")
            told = run.code == 1 and all(word in run.err for word in words)
        if not told:
            wrong.append((number, run.calls[-1][0], str(run)))
    name = f"{script}.sh, lane {kill + 1}"
    world.report.check(f"{name}: killed behind {kills} changes, and refused {refusals}, which it tells; run again "
                       "every time it comes to its end",
                       min(kills, refusals) > 5 and run.code == 0 and not wrong, wrong)
    world.report.equal(f"{name}: what is there then is what one run leaves", world.resources(), expected)


def check_images(world: World) -> None:
    """The steps of docker, killed and refused."""
    wrong = []
    for step in range(1, 5):
        world.reset()
        refused = world.run("bringup", refuse=step)
        words = "have it granted" if step == 1 else "run the same command again"
        if refused.code != 1 or words not in refused.err or len(refused.calls) != step:
            wrong.append((step, str(refused)))
        killed = world.run("bringup", kill=step)
        if killed.code != -9:
            wrong.append((step, str(killed)))
    world.report.check("the repository and each step of docker, refused and then killed", not wrong, wrong)


def check_what_is_not_ours(world: World) -> None:
    """What was there before is used, and stays."""
    world.reset()
    world.client("ecr").create_repository(repositoryName="twitterstream")
    world.client("dynamodb").create_table(
        TableName="twitterStream", BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("user", "date")],
        KeySchema=[{"AttributeName": "user", "KeyType": "HASH"},
                   {"AttributeName": "date", "KeyType": "RANGE"}])
    world.client("logs").create_log_group(logGroupName="twitterstream")
    world.client("ecs").create_cluster(clusterName="twitterstream_cluster")
    world.client("sqs").create_queue(QueueName="twitterstream-rotations")
    up = world.run("bringup", "--rotation-queue")
    down = world.run("teardown")
    found = {kind: len(value) for kind, value in world.resources().items()}
    world.report.equal("what bringup.sh has not made stays",
                       (up.code, down.code, found),
                       (0, 0, {"repositories": 1, "tables": 1, "log groups": 1, "clusters": 1, "queues": 1}))
    kinds = ("the repository", "the table", "the log group", "the cluster", "the queue")
    world.report.check("and is named as left",
                       all(f"{kind} twitter" in down.out for kind in kinds), down)
    retention = world.client("logs").describe_log_groups()["logGroups"][0].get("retentionInDays")
    world.report.equal("its settings are left alone", retention, None)


def check_run_task(world: World) -> None:
    """One task instead of a service; twice is once."""
    world.reset()
    runs = [world.run("bringup", "--run-task", "--private", "--skip-build").code]
    world.client("ecr").create_repository(repositoryName="other")
    runs += [world.run("bringup", "--run-task", "--private").code for _ in range(2)]
    found = world.resources()
    world.report.equal("--skip-build without an image fails, and --run-task runs one task, not two",
                       (runs, found.get("tasks"), found.get("services")),
                       ([1, 0, 0], ["twitterstream-embedded"], None))
    kept = world.run("teardown", "--keep-table", "--secrets")
    world.client("ecr").delete_repository(repositoryName="other")
    deleted = [each.get("DeletedDate") is not None for each in world.client("secretsmanager")
               .list_secrets(IncludePlannedDeletion=True)["SecretList"]]
    world.report.equal("teardown.sh --keep-table --secrets keeps the table and ends the secrets",
                       (kept.code, world.resources(), deleted), (0, {"tables": ["twitterStream"]}, [True] * 4))


def check_refusals_before_anything(world: World) -> None:
    """What is wrong is found before anything is made."""
    secretsmanager, iam = world.client("secretsmanager"), world.client("iam")
    vpc = world.client("ec2").create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    elsewhere = world.client("ec2").create_subnet(VpcId=vpc, CidrBlock="10.9.0.0/24")["Subnet"]["SubnetId"]
    empty = world.folder / "empty"
    empty.mkdir(exist_ok=True)
    for tool in ("bash", "mktemp", "dirname", "rm", "aws", "tr", "jq"):
        found = shutil.which(tool, path=world.environment["PATH"])
        assert found, f"there is no {tool}"
        (empty / tool).unlink(missing_ok=True)
        (empty / tool).symlink_to(found)
    cases: list[tuple[str, tuple[str, ...], dict[str, str], int, str]] = [
        (name, (), {name: ""}, 1, f"{name} is not set")
        for name in ("AWSACCOUNT", "REGION", "SUBNET1", "SUBNET2", "SECURITYGROUP")
    ] + [
        ("a wrong account number", (), {"AWSACCOUNT": "12345"}, 1, "AWSACCOUNT is not of the form"),
        ("a wrong region", (), {"REGION": "Oregon"}, 1, "REGION is not of the form"),
        ("another account", (), {"AWSACCOUNT": "210987654321"}, 1, "are those of account 123456789012"),
        ("an unknown subnet", (), {"SUBNET1": "subnet-00000000"}, 1, "SUBNET1 or SUBNET2 is not in"),
        ("an unknown group", (), {"SECURITYGROUP": "sg-00000000"}, 1, "SECURITYGROUP is not in"),
        ("two VPCs", (), {"SUBNET2": elsewhere}, 1, "not of one VPC"),
        ("no docker", (), {"PATH": str(empty)}, 1, "docker, podman or buildah"),
        ("AWS away", (), {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, 1, "AWS was not reached"),
        ("an unknown argument", ("--other",), {}, 64, "unknown argument"),
        ("an unknown model", ("--model", "other"), {}, 64, "embedded, injected or both"),
        ("an option without value", ("--env",), {}, 64, "--env needs a value"),
        ("no variable", ("--env", "FILTER"), {}, 64, "NAME=VALUE"),
        ("a secret as a variable", ("--env", "ACCESSTOKEN=MARKER"), {}, 64, "into Secrets Manager"),
    ] + [
        ("a value as a secret's name", ("--env", f"{name}_SECRET={value}"), {}, 64, f"{name}_SECRET takes the name")
        for name, value in zip(NAMES, ("MARKER" * 4 + "x", "MARKER" * 8 + "xX", f"12-{'MARKER' * 5}",
                                       "MARKER" * 7 + "xX3"), strict=True)
    ] + [
        ("an alias", ("--customer-key", "alias/mine"), {}, 64, "the ARN of a key"),
        ("no endpoint", ("--vpc-endpoint", "mine"), {}, 64, "takes vpce-"),
        ("no address", ("--alarm", "mine"), {}, 64, "an e-mail address"),
        ("no days", ("--retention", "x"), {}, 64, "takes days"),
        ("a queue for nobody", ("--model", "injected", "--rotation-queue"), {}, 64, "embedded model"),
    ]
    wrong = []

    def expect(what: str, run: Run, code: int, words: str) -> None:
        if (run.code, run.calls) != (code, []) or words not in run.err or "MARKER" in run.err:
            wrong.append((what, str(run)))

    for what, arguments, variables, code, words in cases:
        expect(what, world.run("bringup", *arguments, **variables), code, words)
    secretsmanager.delete_secret(SecretId="ACCESSTOKEN")
    expect("a deleted secret", world.run("bringup"), 1, "ACCESSTOKEN is scheduled for deletion")
    expect("a deleted secret", world.run("secrets", stdin="a\nb\nc\nd\n"), 1, "restore-secret")
    secretsmanager.restore_secret(SecretId="ACCESSTOKEN")
    secretsmanager.delete_secret(SecretId="ACCESSTOKEN", ForceDeleteWithoutRecovery=True)
    expect("no secret", world.run("bringup"), 1, "ACCESSTOKEN is not there")
    expect("no secret", world.run("rotate", stdin="a\nb\nc\nd\n"), 1, "ACCESSTOKEN")
    secretsmanager.create_secret(Name="ACCESSTOKEN")
    expect("no value", world.run("bringup"), 1, "ACCESSTOKEN has no value")
    secretsmanager.put_secret_value(SecretId="ACCESSTOKEN", SecretString="x")
    iam.create_role(RoleName="twitterstream-embedded-task-role", AssumeRolePolicyDocument="{}")
    expect("a foreign role", world.run("bringup"), 1, "that bringup.sh has not made")
    expect("no lines", world.run("secrets", stdin="a\nb\n"), 1, "standard input has no line for ACCESSTOKEN")
    expect("white space", world.run("secrets", stdin="a\nMAR KER\nc\nd\n"), 1, "CONSUMERSECRETKEY holds white space")
    expect("two steps", world.run("rotate", "create", "finish"), 64, "one step")
    for script in ("secrets", "rotate", "teardown", "verify"):
        expect(f"{script}.sh: an unknown argument", world.run(script, "--other"), 64, "unknown argument")
        expect(f"{script}.sh: no region", world.run(script, REGION=""), 1, "REGION is not set")
        run = world.run(script, "--help")
        if run.code or f"Usage: scripts/{script}.sh" not in run.out:
            wrong.append((f"{script}.sh --help", str(run)))
    world.report.check(f"{len(cases) + 9 + 8} faults are told before anything is changed", not wrong, wrong)


def check_waiting(world: World) -> None:
    """What passes by itself is waited for; a task that does not come up is told, with the reason."""
    world.reset()
    world.run("bringup")
    with world.copy() as other:
        calls = [call for call, _ in other.run("teardown").calls]
    at = calls.index("aws ecs delete-cluster") + 1
    run = world.run("teardown", refuse=at, code="ClusterContainsTasksException")
    again = [call for call, _ in run.calls][at - 1 : at + 1]
    world.report.equal("teardown.sh waits for a task that is still stopping",
                       (run.code, again, world.resources()), (0, ["aws ecs delete-cluster"] * 2, {}))
    world.reset()
    world.post("/moto-api/state-manager/set-transition",
               {"model_name": "ecs::task", "transition": {"progression": "immediate"}})
    run = world.run("bringup", WAIT_TRIES="2")
    world.report.check("a task that does not run is told with what AWS says of it", run.code == 1
                       and "is running and healthy yet" in run.err and "why the last one ended" in run.err, run)
    world.reset()
    run = world.run("bringup", WAIT_TRIES="2", HEALTH="UNKNOWN")
    world.report.check("a task that runs and has not proven its parts is not taken for one that works",
                       run.code == 1 and "is running and healthy yet" in run.err, run)


# --- secrets.sh, rotate.sh, verify.sh --------------------------------------------------------------


def check_secrets(world: World) -> None:
    """The four are made, and given new values; no value is an argument or shown."""
    report = world.report
    world.reset(values=False)
    lines = "".join(f"{world.values[name]}\n" for name in NAMES)
    first = world.run("secrets", stdin=lines)
    current = {name: labels.get("AWSCURRENT") for name, labels in world.labels().items()}
    report.equal("secrets.sh makes the four secrets from four lines", (first.code, current),
                 (0, world.values))
    new = {**world.values, "ACCESSTOKEN": f"file://{secrets.token_hex(8)}"}
    old, world.values = world.values, new
    second = world.run("secrets", stdin=f"\n\n{new['ACCESSTOKEN']}\r\n\n")
    current = {name: labels.get("AWSCURRENT") for name, labels in world.labels().items()}
    report.equal("an empty line leaves a secret as it is, another gives it a new value",
                 (second.code, current, len(second.calls)), (0, new, 1))
    for cut in range(1, 5):
        world.reset(values=False)
        world.run("secrets", stdin=lines, kill=cut)
        last = world.run("secrets", stdin=lines)
        current = {name: labels.get("AWSCURRENT") for name, labels in world.labels().items()}
        if last.code or current != old:
            report.check(f"secrets.sh cut behind change {cut}", False, last)
    refused = world.run("secrets", stdin=lines, refuse=2)
    report.check("secrets.sh: a refusal is told", refused.code == 1 and "have it granted" in refused.err, refused)
    report.equal("secrets.sh --dry-run changes nothing",
                 world.run("secrets", "--dry-run", stdin=lines).calls, [])


class TokenEndpoint(BaseHTTPRequestHandler):
    """X's, as far as rotate.sh needs it."""

    status = 200
    shown: list[str] = []

    def do_POST(self) -> None:
        """Answers as it is told."""
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        TokenEndpoint.shown.append(self.headers.get("Authorization", ""))
        self.send_response(TokenEndpoint.status)
        self.end_headers()
        self.wfile.write(b'{"access_token": "MARKER-TOKEN"}')

    def log_message(self, *_: object) -> None:
        """The report is all that is printed."""


def check_rotation(world: World) -> None:
    """New values in four steps, refused ones, a roll-back; cut behind each change."""
    import base64

    report = world.report
    server = ThreadingHTTPServer(("127.0.0.1", 0), TokenEndpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = {"X_TOKEN_URL": f"http://127.0.0.1:{server.server_port}/oauth2/token"}
    old = world.values
    new = {name: f"new/+={name}-{secrets.token_hex(8)}" for name in NAMES}
    lines = "".join(f"{new[name]}\n" for name in NAMES)

    def fresh() -> None:
        world.values = old
        world.reset()
        world.values = {f"old {name}": value for name, value in old.items()} | new

    def values_of(labels: dict[str, dict[str, str]]) -> dict[str, str]:
        return {name: each["AWSCURRENT"] for name, each in labels.items()}

    def current() -> dict[str, str]:
        return values_of(world.labels())

    fresh()
    TokenEndpoint.status = 403
    run = world.run("rotate", stdin=lines, **url)
    report.check("rotate.sh moves nothing when X refuses the new keys", run.code == 1
                 and "HTTP 403" in run.err and current() == old, run)
    TokenEndpoint.status = 200
    run = world.run("rotate", stdin=lines, **url)
    shown = base64.b64decode(TokenEndpoint.shown[-1].partition(" ")[2]).decode()
    expected = ":".join(urllib.request.quote(new[name], safe="") for name in NAMES[:2])
    report.equal("rotate.sh shows X the pending key and secret", shown, expected)
    report.equal("rotate.sh rotates all four", (run.code, current()), (0, new))
    report.check("the token is not shown", "MARKER" not in run.out + run.err, run)
    pending = [name for name, labels in world.labels().items() if "AWSPENDING" in labels]
    report.equal("nothing is pending after that", pending, [])
    wrong = []
    fresh()
    for cut in range(1, len(run.calls) + 1):
        with world.copy() as other:
            other.run("rotate", "--no-test", stdin=lines, kill=cut)
            step = ("finish",) if cut >= 4 else ("--no-test",)
            again = other.run("rotate", *step, stdin=lines)
            labels = other.labels()
        if again.code or values_of(labels) != new or any("AWSPENDING" in each for each in labels.values()):
            wrong.append((cut, str(again), labels))
    report.check(f"rotate.sh cut behind each of {len(run.calls)} changes and run again", not wrong, wrong)

    fresh()
    world.run("rotate", "--no-test", stdin=lines)
    moves_previous = all(labels.get("AWSPREVIOUS") == old[name] for name, labels in world.labels().items())
    report.check("AWSPREVIOUS is on the old values", moves_previous, world.labels())
    with world.copy() as other:
        back = other.run("rotate", "roll-back")
        report.equal("rotate.sh roll-back puts all four back", (back.code, values_of(other.labels())), (0, old))
        again = other.run("rotate", "roll-back")
        report.check("a second roll-back finds nothing to take back", again.code == 1 and again.calls == []
                     and "no rotation to take back" in again.err, again)
    check_roll_back_of_two(world, lines, new)
    wrong = []
    # Behind the last change it is over, and there is nothing to take back.
    for cut in range(1, len(back.calls)):
        with world.copy() as other:
            other.run("rotate", "roll-back", kill=cut)
            again = other.run("rotate", "roll-back")
            labels = other.labels()
        if again.code or values_of(labels) != old:
            wrong.append((cut, str(again), labels))
    report.check(f"a roll-back cut behind each of {len(back.calls) - 1} changes and run again goes back once",
                 not wrong, wrong)
    refused = world.run("rotate", "--no-test", stdin=lines, refuse=3)
    report.check("rotate.sh: a refusal is told", refused.code == 1 and "have it granted" in refused.err, refused)
    report.equal("rotate.sh --dry-run changes nothing", (world.run(
        "rotate", "--dry-run", stdin=lines).calls, world.run("rotate", "roll-back", "--dry-run").calls), ([], []))
    world.values = old
    server.shutdown()


def check_roll_back_of_two(world: World, lines: str, whole: dict[str, str]) -> None:
    """After a rotation of all four, one of two: taken back, the other two stay, wherever it was cut."""
    report = world.report
    newer = "".join(f"newer-{line}\n" for line in lines.splitlines()[:2]) + "\n\n"

    def current(world: World) -> dict[str, str]:
        return {name: labels["AWSCURRENT"] for name, labels in world.labels().items()}

    with world.copy() as other:
        second = other.run("rotate", "--no-test", stdin=newer)
        moved = [name for name, value in current(other).items() if value != whole[name]]
        with other.copy() as changed:
            changed.client("secretsmanager").put_secret_value(SecretId="CONSUMERKEY", SecretString="x")
            run = changed.run("rotate", "roll-back")
            report.check("rotate.sh roll-back leaves a secret alone that was given another value since",
                         run.code == 1 and run.calls == [] and "since the last rotation: CONSUMERKEY" in run.err, run)
        back = other.run("rotate", "roll-back")
        report.equal("rotate.sh roll-back takes back what the last rotation has moved, and nothing else",
                     (second.code, moved, back.code, current(other)), (0, list(NAMES[:2]), 0, whole))
        report.check("and says what stays", "so they stay: ACCESSTOKEN ACCESSTOKENSECRET" in back.out, back)
    wrong = []
    # From the tag on; before it, the rotation of all four is the last one.
    for cut in range(3, len(second.calls) + 1):
        with world.copy() as other:
            other.run("rotate", "--no-test", stdin=newer, kill=cut)
            with other.copy() as finished:
                runs = [finished.run("rotate", "finish"), finished.run("rotate", "roll-back")]
                found = [current(finished)]
            runs.append(other.run("rotate", "roll-back"))
            found.append(current(other))
        if any(run.code for run in runs) or found != [whole] * 2:
            wrong.append((cut, [str(run) for run in runs], found))
    report.check(f"and so where finish was cut behind each of {len(second.calls) - 2} changes, run again or not",
                 not wrong, wrong)


def check_verify(world: World) -> None:
    """It passes on what bringup.sh makes, and fails on a role that may more or less."""
    report = world.report
    world.reset()
    world.run("bringup", "--model", "both")
    run = world.run("verify", "--model", "both")
    report.check("verify.sh passes on what bringup.sh has made", run.code == 0 and " 0 failed" in run.out, run)
    report.check("it shows what the task has found", "on Fargate: kernel: Linux 5.10.0" in run.out, run)
    report.equal("it changes nothing but to run a task", [call for call, _ in run.calls], ["aws ecs run-task"])
    report.equal("verify.sh --dry-run asks nothing", world.run("verify", "--dry-run").calls, [])
    iam = world.client("iam")
    role = {"RoleName": "twitterstream-embedded-task-role", "PolicyName": "more"}
    more = {"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "secretsmanager:GetSecretValue", "Resource": "*"}]}
    iam.put_role_policy(**role, PolicyDocument=json.dumps(more))
    run = world.run("verify", "--no-task")
    told = sum(line.startswith("FAIL") for line in run.out.splitlines())
    report.equal("it fails on a role that may read more", (run.code, told), (1, 9))
    iam.delete_role_policy(**role)
    iam.delete_role_policy(RoleName=role["RoleName"], PolicyName="task-role-embedded")
    run = world.run("verify", "--no-task")
    told = sum(line.startswith("FAIL") for line in run.out.splitlines())
    report.equal("and on one that may less", (run.code, told), (1, 9))


def check_all(report: Report, one: World, two: World) -> None:
    """Runs all checks, in two accounts at once."""
    check_bringup(one)
    one.reset()
    one.run("bringup", *FULL, fork=True)
    whole, forks = one.resources(), one.forks()
    # Both lanes begin with copies of it.
    source = contextlib.ExitStack()
    torn = [source.enter_context(one.copy()) for _ in range(2)]
    # The images are there, which each run would make anew.
    built = source.enter_context(one.copy(forks[3]))
    pushed = [source.enter_context(built.copy()) for _ in range(2)]

    def lane(kill: int, checks: Callable[[], None]) -> None:
        try:
            check_stops(pushed[kill], "bringup", ("--skip-build", *FULL), whole, kill)
            check_stops(torn[kill], "teardown", (), {}, kill)
            check_cut_bringups(one, forks[kill::2])
            checks()
        except Exception:
            report.check(f"lane {kill + 1}", False, traceback.format_exc())

    def first() -> None:
        check_verify(two)
        check_secrets(two)
        check_run_task(two)
        check_images(two)

    def second() -> None:
        check_rotation(one)
        check_what_is_not_ours(one)
        check_refusals_before_anything(one)
        check_waiting(one)

    lanes = [threading.Thread(target=lane, args=each) for each in enumerate((first, second))]
    for each in lanes:
        each.start()
    for each in lanes:
        each.join()
    source.close()


def main() -> int:
    """Runs all checks in two accounts at once; the exit code."""
    report = Report()
    # The clients in here are told everything; a profile of whoever runs this is not for them.
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        processes = [cli.install(folder)]
        try:
            worlds = []
            for _ in range(2):
                moto = subprocess.Popen([sys.executable, "-c", MOTO], stdout=subprocess.PIPE, text=True,
                                        start_new_session=True)
                processes.append(moto)
                assert moto.stdout
                worlds.append(World(report, folder, f"http://127.0.0.1:{int(moto.stdout.readline())}"))
                worlds[-1].reset()
            check_all(report, *worlds)
        finally:
            processes[0].terminate()
            # With all their copies.
            for process in processes[1:]:
                os.killpg(process.pid, signal.SIGKILL)
            for process in processes:
                process.wait()
    print(f"{report.passed} passed, {report.failed} failed")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
