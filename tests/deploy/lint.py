#!/usr/bin/env python3
"""What linters say of the files that are deployed.

Usage: lint.py

hadolint on the Dockerfile, shellcheck on every script, parliament on every policy, and on the task
definitions botocore's validator of RegisterTaskDefinition and cfn-lint. One word from any of them is
a failure. Each is shown something wrong first, which it must find.

One line is printed for each check, and at the end 'N passed, N failed'.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import botocore.session
from botocore.validate import ParamValidator
from parliament import analyze_policy_string

ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path(sys.executable).parent
PLACES = {"$REGION": "us-west-2", "$AWSACCOUNT": "123456789012", "$VPCENDPOINT": "vpce-0123456789abcdef0",
          "$CUSTOMERKEY": "arn:aws:kms:us-west-2:123456789012:key/0e7ae0a5-0000-4000-8000-000000000000"}


def filled_in(path: Path) -> str:
    """A file with its placeholders filled in."""
    text = path.read_text()
    for place, value in PLACES.items():
        text = text.replace(place, value)
    return text


def tool(*arguments: str | Path) -> str:
    """What a linter says; nothing is what it should say."""
    program, *rest = map(str, arguments)
    run = subprocess.run([TOOLS / program, *rest], capture_output=True, text=True, cwd=ROOT)
    return run.stdout + run.stderr + ("" if run.returncode == 0 else f"exit {run.returncode}")


def on_text(suffix: str, text: str, lint: Callable[[Path], str]) -> str:
    """What a linter says of a text."""
    with tempfile.NamedTemporaryFile("w", suffix=suffix) as file:
        file.write(text)
        file.flush()
        return lint(Path(file.name))


def hadolint(path: Path) -> str:
    """Of a Dockerfile."""
    return tool("hadolint", "--no-color", path)


def shellcheck(path: Path) -> str:
    """Of a script; everything is on that can be."""
    return tool("shellcheck", "--external-sources", "--severity", "style", path)


def parliament(text: str) -> str:
    """Of a policy. Resource and trust policies have a Principal, which it does not know."""
    document = json.loads(text)
    for statement in document["Statement"]:
        if statement.pop("Principal", None) and "Resource" not in statement:
            statement["Resource"] = "arn:aws:iam::123456789012:role/twitterstream"
    findings = analyze_policy_string(json.dumps(document), include_community_auditors=False).findings
    # A Deny of a resource policy is about the secret that it hangs on.
    return "\n".join(str(finding) for finding in findings)


def validator(definition: dict[str, Any]) -> str:
    """Of a task definition: the shape that the API takes."""
    shape = botocore.session.get_session().get_service_model("ecs").operation_model("RegisterTaskDefinition")
    return ParamValidator().validate(definition, shape.input_shape).generate_report()


def cfn_lint(definition: dict[str, Any]) -> str:
    """Of a task definition: the values that ECS and Fargate take, by CloudFormation's schema."""
    keep = {"options", "tags"}

    def capital(value: Any) -> Any:
        if isinstance(value, dict):
            return {name[0].upper() + name[1:]: each if name in keep else capital(each)
                    for name, each in value.items()}
        return [capital(each) for each in value] if isinstance(value, list) else value

    resource = {"Type": "AWS::ECS::TaskDefinition", "Properties": capital(definition)}
    text = json.dumps({"AWSTemplateFormatVersion": "2010-09-09", "Resources": {"Task": resource}})
    # In a template an account or a region is written otherwise; here they are filled in.
    return on_text(".json", text, lambda path: tool(
        "cfn-lint", "--non-zero-exit-code", "informational", "--include-checks", "W", "I",
        "--ignore-checks", "I3042", "--", path))


def main() -> int:
    """Runs all of them; the exit code."""
    passed = failed = 0

    def check(what: str, holds: bool, said: str) -> None:
        nonlocal passed, failed
        passed += holds
        failed += not holds
        print(f"ok    {what}" if holds else f"FAIL  {what}:\n{said}", flush=True)

    def clean(what: str, said: str) -> None:
        check(what, not said.strip(), said)

    def finds(what: str, said: str) -> None:
        check(f"{what} finds what is wrong", bool(said.strip()), "it said nothing")

    finds("hadolint", on_text("", "FROM debian\nRUN apt-get install -y curl\n", hadolint))
    clean("hadolint: Dockerfile", hadolint(ROOT / "Dockerfile"))

    finds("shellcheck", on_text(".sh", "#!/bin/bash\nrm -rf $1/\n", shellcheck))
    scripts = [*ROOT.glob("scripts/*.sh"), *ROOT.glob("tests/*/run"), *ROOT.glob("tests/deploy/image"),
               ROOT / ".ci/run"]
    for path in sorted(scripts):
        clean(f"shellcheck: {path.relative_to(ROOT)}", shellcheck(path))

    wrong = {"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": ["secretsmanager:GetSecretValue", "kms:Decrypt"],
         "Resource": "arn:aws:secretsmanager:us-west-2:123456789012:secret:CONSUMERKEY-XXXXXX"}]}
    finds("parliament (kms:Decrypt on a secret)", parliament(json.dumps(wrong)))
    for path in sorted(ROOT.glob("iam/*.json")):
        clean(f"parliament: {path.relative_to(ROOT)}", parliament(filled_in(path)))

    for path in sorted(ROOT.glob("task-definition/*.json")):
        definition = json.loads(filled_in(path))
        name = path.relative_to(ROOT)
        clean(f"botocore: {name}", validator(definition))
        clean(f"cfn-lint: {name}", cfn_lint(definition))
        other = copy.deepcopy(definition)
        other["containerDefinitions"][0]["readonlyRootFileSystem"] = True
        finds(f"botocore ({name} with a misspelt key)", validator(other))
        other = copy.deepcopy(definition)
        other["memory"] = "128"
        finds(f"cfn-lint ({name} with too little memory)", cfn_lint(other))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
