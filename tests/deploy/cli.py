"""The programs that the scripts call, as a test needs them: the real AWS CLI, quick to start and able
to fail, and a docker that builds nothing.

A folder for PATH holds `aws` and `docker`. Both tell a server their process id and wait; the server
forks, and the child takes their arguments, environment and files from /proc. It is the real AWS CLI
(awscli.clidriver), imported before. So a call costs a few hundredths of a second and not a whole one, and
a script of sixty calls can be run for each place where it may be cut.

What changes something is counted. A plan in the environment's CLI_PLAN says at which of these the
script is killed (with all that it started, behind the call) or the call is refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import fnmatch
import gc
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
import urllib.request
from pathlib import Path
from typing import Any

CLIENT = """#!/usr/bin/env bash
exec 3<>/dev/tcp/127.0.0.1/{port} 4<&0 5>&1 6>&2
echo "$$" >&3
read -r -u 3 code
exit "${{code:-255}}"
"""

READS = ("describe-", "get-", "list-", "wait", "simulate-", "validate-", "info")
"""How the calls begin that change nothing."""

SERVICES = ("accessanalyzer", "dynamodb", "ec2", "ecr", "ecs", "events", "iam", "logs", "secretsmanager",
            "sns", "sqs", "sts")

LOG_OF_CHECK = (
    {"check": "kernel", "ok": True, "found": "Linux 5.10.0"},
    {"check": "volume", "ok": True, "found": "65532:65532 0755, writable"},
    {"check": "end", "ok": True, "found": "2 of 2"},
)
"""What the stand-in for a task with the command `check` logs."""


def install(folder: Path) -> subprocess.Popen[str]:
    """Starts the server, and makes the programs."""
    server = subprocess.Popen([sys.executable, "-B", __file__], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, text=True)
    assert server.stdout
    port = int(server.stdout.readline())
    programs = folder / "bin"
    programs.mkdir()
    for name in ("aws", "docker"):
        program = programs / name
        program.write_text(CLIENT.format(port=port))
        program.chmod(0o755)
    return server


def serve() -> None:
    """One child for each call, with the CLI and its models in memory."""
    from awscli.clidriver import create_clidriver

    os.environ.update(AWS_EC2_METADATA_DISABLED="true", AWS_DEFAULT_REGION="us-west-2",
                      AWS_CONFIG_FILE="/dev/null", AWS_SHARED_CREDENTIALS_FILE="/dev/null")
    driver = create_clidriver()
    table = driver._get_command_table()
    for service in SERVICES:
        key = dict(aws_access_key_id="none", aws_secret_access_key="none")
        driver.session.create_client(service, region_name="us-west-2", **key)
        driver.session.get_component("data_loader").list_available_services("paginators-1")
        table[service]._get_command_table()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.create_server(("127.0.0.1", 0), backlog=16)
    print(listener.getsockname()[1], flush=True)
    while True:
        connection, _ = listener.accept()
        if os.fork():
            connection.close()
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        code = 255
        try:
            caller = Path("/proc", connection.makefile().readline().strip())
            code = answer(caller, driver)
        except Exception:
            traceback.print_exc()
        finally:
            # The caller's own reader sees an end when nobody has the file open any more.
            os.closerange(0, 3)
            connection.sendall(f"{code}\n".encode())
            os._exit(0)


def answer(caller: Path, driver: Any) -> int:
    """Takes a call, and makes it."""
    # What comes first is the shell, and the script that it runs.
    _, program, *arguments = strings(caller / "cmdline")
    program = Path(program).name
    environment = dict(pair.split("=", 1) for pair in strings(caller / "environ"))
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(caller / "cwd")
    # Copies of its files: the shell puts others in their places while it writes and reads itself.
    for number, mode in enumerate((os.O_RDONLY | os.O_NONBLOCK, os.O_WRONLY, os.O_WRONLY)):
        os.dup2(os.open(caller / "fd" / str(number + 4), mode), number)
    # Without it a pipe whose other end is closed already could not be opened.
    os.set_blocking(0, True)
    plan = json.loads(Path(environment["CLI_PLAN"]).read_text())
    operation = arguments[0] if program == "docker" else (arguments[1:] or [""])[0]
    call = f"{program} {' '.join(arguments[:2] if program == 'aws' else arguments[:1])}"
    changes = not operation.startswith(READS) and arguments[:1] != ["configure"]
    number = note(plan, call, arguments) if changes else 0
    if changes and number == plan.get("refuse"):
        code = plan["code"]
        words = f"An error occurred ({code}) when calling the {operation} operation: not in this test"
        print(f"\n{words}", file=sys.stderr, flush=True)
        return 254
    code = docker(arguments) if program == "docker" else aws(driver, arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    if changes and plan.get("fork"):
        world = client("sts").meta.endpoint_url
        with urllib.request.urlopen(f"{world}/fork", b"", timeout=60) as answered:
            note({"calls": plan["fork"]}, call, [answered.read().decode()])
    if changes and number == plan.get("kill"):
        os.killpg(os.getpgid(int(caller.name)), signal.SIGKILL)
    return code


def strings(path: Path) -> list[str]:
    """The strings of a file of /proc, each of which ends with NUL."""
    return path.read_bytes().decode().split("\0")[:-1]


def note(plan: dict[str, Any], call: str, arguments: list[str]) -> int:
    """Writes a change down, with its arguments; the how manieth it is."""
    with open(plan["calls"], "a+") as calls:
        fcntl.flock(calls, fcntl.LOCK_EX)
        calls.write(json.dumps([call, arguments]) + "\n")
        calls.flush()
        calls.seek(0)
        return len(calls.readlines())


def client(service: str) -> Any:
    """A client of the same AWS."""
    import boto3

    return boto3.client(service)


def aws(driver: Any, arguments: list[str]) -> int:
    """The real AWS CLI; and what the account would do that moto does not."""
    operation = tuple(arguments[:2])
    if operation == ("iam", "simulate-principal-policy"):
        return simulate(arguments)
    if operation == ("accessanalyzer", "validate-policy"):
        # As Access Analyzer does of a policy without a resource whose kind it is not told.
        told = "RESOURCE_POLICY" not in arguments or "--validate-policy-resource-type" in arguments
        missing = [] if told else [{"findingType": "ERROR", "issueCode": "MISSING_RESOURCE"}]
        print(json.dumps({"findings": missing}))
        return 0
    if operation == ("ecs", "describe-tasks") and "HEALTH" in os.environ:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            code = run(driver, arguments)
        # moto's tasks have no health.
        described = json.loads(said.getvalue())
        for task in described["tasks"]:
            task["healthStatus"] = os.environ["HEALTH"]
        print(json.dumps(described))
        return code
    # Version 1 of the CLI has a server name of its own for SQS, whatever the variable says.
    local = ["--endpoint-url", os.environ["AWS_ENDPOINT_URL"]] if arguments[0] == "sqs" else []
    code = run(driver, local + arguments)
    if code == 0 and operation in (("ecs", "create-service"), ("ecs", "update-service")):
        deploy(json.loads(Path(option(arguments, "--cli-input-json").removeprefix("file://"))
                          .read_text()))
    if code == 0 and operation == ("ecs", "delete-service"):
        end_tasks(option(arguments, "--cluster"), option(arguments, "--service"))
    if code == 0 and operation == ("ecs", "run-task") and "verify.sh" in arguments:
        check_task(option(arguments, "--cluster"))
    return code


def run(driver: Any, arguments: list[str]) -> int:
    """The CLI's main function; it answers with an exit code, or leaves with one."""
    try:
        return int(driver.main(arguments) or 0)
    except SystemExit as leaving:
        return int(leaving.code or 0)


def option(arguments: list[str], name: str) -> str:
    """The value of an option."""
    return arguments[arguments.index(name) + 1]


def docker(arguments: list[str]) -> int:
    """A push leaves an image in the repository; the rest does nothing."""
    if arguments[0] == "login":
        sys.stdin.read()
    if arguments[0] == "build" and not Path(arguments[-1], "Dockerfile").is_file():
        return 1
    if arguments[0] == "push":
        registry, _, tag = arguments[1].rpartition(":")
        manifest = {"schemaVersion": 2, "config": {"digest": f"sha256:{tag}"},
                    "mediaType": "application/vnd.docker.distribution.manifest.v2+json"}
        ecr = client("ecr")
        try:
            ecr.put_image(repositoryName=registry.rpartition("/")[2], imageTag=tag,
                          imageManifest=json.dumps(manifest))
        except ecr.exceptions.ImageAlreadyExistsException:
            pass
    return 0


def deploy(service: dict[str, Any]) -> None:
    """A service has one task, of its task definition and with its tags."""
    ecs = client("ecs")
    name = service.get("serviceName") or service["service"]
    end_tasks(service["cluster"], name)
    ecs.run_task(cluster=service["cluster"], taskDefinition=service["taskDefinition"],
                 launchType="FARGATE", startedBy=f"ecs-svc/{name}", group=f"service:{name}",
                 networkConfiguration=service["networkConfiguration"],
                 tags=[{"key": "created-by", "value": "twitterstream/bringup.sh"}])


def end_tasks(cluster: str, service: str) -> None:
    """The tasks of a service end."""
    ecs = client("ecs")
    for task in ecs.list_tasks(cluster=cluster, startedBy=f"ecs-svc/{service}")["taskArns"]:
        ecs.stop_task(cluster=cluster, task=task)


def check_task(cluster: str) -> None:
    """The task of verify.sh has logged its findings and ended."""
    ecs, logs = client("ecs"), client("logs")
    task = ecs.list_tasks(cluster=cluster, startedBy="verify.sh")["taskArns"][-1]
    stream = f"twitterstream/twitterstream/{task.rpartition('/')[2]}"
    logs.create_log_stream(logGroupName="twitterstream", logStreamName=stream)
    now = int(time.time() * 1000)
    events = [{"timestamp": now, "message": json.dumps(line)} for line in LOG_OF_CHECK]
    logs.put_log_events(logGroupName="twitterstream", logStreamName=stream, logEvents=events)
    ecs.stop_task(cluster=cluster, task=task)


def simulate(arguments: list[str]) -> int:
    """IAM's simulator, as far as these policies go: moto has none."""
    iam = client("iam")
    role = option(arguments, "--policy-source-arn").rpartition("/")[2]
    action, resource = option(arguments, "--action-names"), option(arguments, "--resource-arns")
    context = {}
    if "--context-entries" in arguments:
        entry = dict(pair.split("=", 1) for pair in option(arguments, "--context-entries").split(","))
        context[entry["ContextKeyName"]] = entry["ContextKeyValues"]
    decision = "implicitDeny"
    for name in iam.list_role_policies(RoleName=role)["PolicyNames"]:
        document = iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
        for statement in document["Statement"]:
            actions, resources = ([value] if isinstance(value, str) else value
                                  for value in (statement["Action"], statement["Resource"]))
            conditions = statement.get("Condition", {}).get("StringEquals", {})
            if (any(fnmatch.fnmatchcase(action, each) for each in actions)
                    and any(fnmatch.fnmatchcase(resource, each) for each in resources)
                    and all(context.get(key) == value for key, value in conditions.items())):
                decision = "allowed"
    print(json.dumps({"EvaluationResults": [{"EvalActionName": action, "EvalDecision": decision}]}))
    return 0


if __name__ == "__main__":
    serve()
