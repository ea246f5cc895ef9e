#!/usr/bin/env python3
"""The image at its work, as on Fargate; refereed by the peers of ../peers.

Usage: fargate.py ROOTFS IMAGE_CONFIG

ROOTFS is the image's file system, IMAGE_CONFIG the JSON of its configuration. Run it as root in a
network namespace of its own that has 169.254.170.2: there the credentials endpoint is, as on Fargate.

runc starts the container with what the task definition of the image's model says: user, read-only root, no
capabilities, the volume, the environment. Docker's and Fargate's rule for a volume is applied: it has
the owner of the image's folder where the image declares it a VOLUME, and root's where not. Names of
AWS and X are looked up and TLS is spoken, with an authority that stands in the image's bundle.
"""

from __future__ import annotations

import copy
import json
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import astuple
from datetime import datetime, timedelta, timezone
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/peers"))

import check  # noqa: E402
import rotation  # noqa: E402
from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402

AWS_ADDRESS, FEED_ADDRESS, DNS_ADDRESS = "127.0.0.2", "127.0.0.3", "127.0.0.4"
FEED_HOST = "stream.twitter.com"
VOLUME = "/var/lib/twitterstream"


# --- The network -----------------------------------------------------------------------------------


def serve_names() -> None:
    """A DNS server: AWS's names and the feed's, and no other."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((DNS_ADDRESS, 53))

    def answer() -> None:
        while True:
            query, client = server.recvfrom(512)
            labels, at = [], 12
            while query[at]:
                labels.append(query[at + 1 : at + 1 + query[at]].decode())
                at += query[at] + 1
            name, kind = ".".join(labels).lower(), query[at + 1 : at + 3]
            address = (AWS_ADDRESS if name.endswith(".amazonaws.com") else
                       FEED_ADDRESS if name == FEED_HOST else None)
            head = query[:2] + (b"\x81\x80" if address else b"\x81\x83") + b"\0\1"
            question = query[12 : at + 5]
            if address and kind == b"\0\1":
                record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(address)
                server.sendto(head + b"\0\1\0\0\0\0" + question + record, client)
            else:
                server.sendto(head + b"\0\0\0\0\0\0" + question, client)

    threading.Thread(target=answer, daemon=True).start()


def certificates(folder: Path) -> tuple[Path, Path]:
    """An authority's certificate, and what a server with these names shows."""
    def signed(name: str, key: Any, issuer: str, by: Any, names: list[str]) -> Any:
        now = datetime.now(timezone.utc)
        common = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, each)]) for each in (name, issuer)]
        builder = x509.CertificateBuilder(
            issuer_name=common[1], subject_name=common[0], public_key=key.public_key(),
            serial_number=x509.random_serial_number(), not_valid_before=now - timedelta(hours=1),
            not_valid_after=now + timedelta(days=1),
        ).add_extension(x509.BasicConstraints(ca=not names, path_length=None), critical=True)
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), critical=False)
        return builder.sign(by, hashes.SHA256())

    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = signed("authority", authority_key, "authority", authority_key, [])
    region = check.REGION
    names = [FEED_HOST, f"*.{region}.amazonaws.com", f"*.ddb.{region}.amazonaws.com"]
    server = signed("server", key, "authority", authority_key, names)
    pem = serialization.Encoding.PEM
    bundle, chain = folder / "authority.pem", folder / "server.pem"
    bundle.write_bytes(authority.public_bytes(pem))
    chain.write_bytes(server.public_bytes(pem) + key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return bundle, chain


def front(address: str, port: Callable[[], int], chain: Path) -> None:
    """TLS at an address, in the clear to the port that is behind it by then."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain)
    listener = socket.create_server((address, 443))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        # The one that ends takes the other with it.
        for each in (source, sink):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def connect(client: socket.socket) -> None:
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            inside = context.wrap_socket(client, server_side=True)
            behind = socket.create_connection(("127.0.0.1", port()))
        except OSError:
            client.close()
            return
        threading.Thread(target=pump, args=(inside, behind), daemon=True).start()
        threading.Thread(target=pump, args=(behind, inside), daemon=True).start()

    def listen() -> None:
        while True:
            threading.Thread(target=connect, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=listen, daemon=True).start()


# --- The container ---------------------------------------------------------------------------------


class Fargate(check.World):
    """All peers where Fargate has them, and containers between them."""

    def __init__(self, rootfs: Path, image: dict[str, Any], folder: Path) -> None:
        (folder / "empty").mkdir()
        super().__init__(folder / "run", str(folder / "empty"))
        self.folder, self.rootfs, self.image = folder, rootfs, image
        self.bundle, self.chain = certificates(folder)
        (folder / "resolv.conf").write_text(f"nameserver {DNS_ADDRESS}\n")
        self.endpoint.relative = f"/v2/credentials/{secrets.token_hex(16)}"
        self.endpoint.path = self.endpoint.relative
        # Fargate's endpoint asks for no token: who reaches the address is the task.
        self.endpoint.token = ""
        ThreadingHTTPServer.allow_reuse_address = True
        server = ThreadingHTTPServer(("169.254.170.2", 80), check.CredentialsHandler)
        for name in ("token", "path", "body", "statuses"):
            setattr(server, name, getattr(self.endpoint, name))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        serve_names()
        front(AWS_ADDRESS, lambda: self.aws.server.server_port, self.chain)
        self.feed_port = 0
        front(FEED_ADDRESS, lambda: self.feed_port, self.chain)
        self.injected = image["config"]["Entrypoint"] == ["/injected"]
        model = "injected" if self.injected else "embedded"
        text = (ROOT / f"task-definition/{model}.json").read_text()
        text = text.replace("$REGION", check.REGION).replace("$AWSACCOUNT", "123456789012")
        self.definition = json.loads(text)
        self.container = self.definition["containerDefinitions"][0]

    def config(self, arguments: list[str], variables: dict[str, str]) -> dict[str, Any]:
        """The OCI runtime configuration that the task definition comes to."""
        uid, _, gid = self.container["user"].partition(":")
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOSTNAME": "ip-10-0-0-1.internal",
            "AWS_EXECUTION_ENV": "AWS_ECS_FARGATE",
            "AWS_REGION": check.REGION, "AWS_DEFAULT_REGION": check.REGION,
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": self.endpoint.relative,
            "ECS_CONTAINER_METADATA_URI_V4": "http://169.254.170.2/v4/0",
            **{each["name"]: each["value"] for each in self.container["environment"]},
            **variables,
        }
        drop = self.container["linuxParameters"]["capabilities"]["drop"]
        assert drop == ["ALL"], drop
        sets = ("bounding", "effective", "permitted", "inheritable", "ambient")
        volumes = []
        for mount in self.container["mountPoints"]:
            volumes.append({"destination": mount["containerPath"], "type": "bind",
                            "source": str(self.volume(mount["containerPath"])),
                            "options": ["rbind", "ro" if mount["readOnly"] else "rw", "nosuid", "nodev"]})
        files = {"/etc/resolv.conf": self.folder / "resolv.conf",
                 "/etc/ssl/certs/ca-certificates.crt": self.bundle}
        return {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": int(uid), "gid": int(gid)}, "cwd": "/",
                "args": self.image["config"]["Entrypoint"] + arguments,
                "env": [f"{name}={value}" for name, value in environment.items()],
                "capabilities": {name: [] for name in sets},
            },
            "root": {"path": str(self.rootfs), "readonly": self.container["readonlyRootFilesystem"]},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                 "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
                *volumes,
                *({"destination": inside, "type": "bind", "source": str(outside), "options": ["bind", "ro"]}
                  for inside, outside in files.items()),
            ],
            "linux": {"namespaces": [{"type": each} for each in ("pid", "ipc", "uts", "mount")],
                      "maskedPaths": ["/proc/kcore", "/proc/keys"], "readonlyPaths": ["/proc/sys"]},
        }

    def volume(self, inside: str) -> Path:
        """A volume as Docker and Fargate make one: root's, or the image's where that declares it."""
        volume = Path(tempfile.mkdtemp(dir=self.folder))
        volume.chmod(0o755)
        if inside in (self.image["config"].get("Volumes") or {}):
            owner = (self.rootfs / inside.lstrip("/")).stat()
            os.chown(volume, owner.st_uid, owner.st_gid)
            volume.chmod(owner.st_mode & 0o7777)
        return volume

    def start(self, config: dict[str, Any]) -> check.Worker:
        """Runs a container. runc hands signals on, and ends with the container's exit code."""
        bundle = Path(tempfile.mkdtemp(dir=self.folder))
        (bundle / "config.json").write_text(json.dumps(config))
        run = bundle / "run"
        name = f"twitterstream-{secrets.token_hex(4)}"
        run.write_text(f"#!/bin/sh\nexec runc --root {self.folder}/runc run --bundle {bundle} {name}\n")
        run.chmod(0o755)
        worker = check.Worker(run, {"PATH": os.environ["PATH"]}, self.directory)
        worker.container = name
        return worker

    def health(self, worker: check.Worker) -> tuple[int, dict[str, Any]]:
        """What the definition's health check says in a running container, and its exit code."""
        kind, *command = self.container["healthCheck"]["command"]
        assert kind == "CMD", kind
        done = subprocess.run(["runc", "--root", self.folder / "runc", "exec", worker.container, *command],
                              check=False, capture_output=True, text=True, timeout=check.LIMIT)
        return done.returncode, json.loads(done.stdout)

    def worker(self, feed: check.Feed, **settings: str) -> check.Worker:
        """The worker in its container. The feed is where the dialect's own default looks for it."""
        feed.url = f"https://{FEED_HOST}{check.STREAM_PATH}"
        self.feed_port = feed.server_port
        variables = {"FEED": "twitter-v1.1", "FILTER": check.FILTER, "STOP_LIMIT": "5m", **settings}
        return self.start(self.config([], variables))

    def check_command(self, change: Any = lambda config: None) -> tuple[int, dict[str, tuple[bool, str]]]:
        """What the command `check` finds in such a container."""
        config = self.config(["check"], {})
        change(config)
        container = self.start(config)
        code = container.process.wait(check.LIMIT)
        container.join()
        found = {event["check"]: (event["ok"], event["found"]) for event in container.events}
        assert found, container.last_words()
        return code, found


# --- The checks ------------------------------------------------------------------------------------


def check_container(report: check.Report, world: Fargate) -> None:
    """The command `check` sees what was made for it, and sees when it is missing."""
    _, found = world.check_command()
    for what, (_, value) in found.items():
        print(f"      check: {what}: {value}")
    report.equal("inside it is not root", found["user"], (True, "65532:65532"))
    report.equal("without capabilities", found["capabilities"], (True, "0" * 16))
    report.equal("its root is read-only", found["root file system"], (True, "ro"))
    report.equal("its volume is its own", found["volume"], (True, "65532:65532 0755, writable"))
    report.equal("its hardening is whole", found["hardening"], (True, "full"))
    read = [what for what, (ok, _) in found.items() if ok and what.endswith(("can be read", "looked at", "written"))]
    report.equal("its role reads the two secrets of x-v2 and writes the table", len(read), 5)

    def root(config: dict[str, Any]) -> None:
        config["process"]["user"] = {"uid": 0, "gid": 0}

    def capable(config: dict[str, Any]) -> None:
        for each in config["process"]["capabilities"].values():
            each.append("CAP_NET_BIND_SERVICE")

    def writable(config: dict[str, Any]) -> None:
        config["root"]["readonly"] = False

    image = world.image
    world.image = copy.deepcopy(image)
    del world.image["config"]["Volumes"]
    _, undeclared = world.check_command()
    world.image = image
    report.equal("a volume that the image does not declare would be root's",
                 undeclared["volume"], (False, "0:0 0755, Permission denied (os error 13)"))
    for change, what in ((root, "user"), (capable, "capabilities"), (writable, "root file system")):
        code, other = world.check_command(change)
        report.check(f"check fails on another {what}", code == 69 and not other[what][0], other[what])
    _, *alone = world.container["healthCheck"]["command"]
    container = world.start(world.config(alone[1:], {}))
    code = container.process.wait(check.LIMIT)
    container.join()
    report.check("the health check fails where no worker is", code == 1, container.last_words())
    shell = world.config([], {})
    shell["process"]["args"] = ["/bin/sh", "-c", "true"]
    container = world.start(shell)
    code = container.process.wait(check.LIMIT)
    container.join()
    report.check("there is no shell", code != 0 and "no such file" in container.everything(), container.last_words())


def check_rotation(report: check.Report, world: Fargate, keys: check.Keys, seed: int) -> None:
    """New keys while a live feed runs."""
    rotations = rotation.Rotations(report, world, keys, seed)
    feed = rotations.feed
    with rotations.worker as worker:
        rotations.flow()
        code, answer = world.health(worker)
        report.equal("the health check finds the worker well", (code, answer["state"]), (0, "ok"))
        rotations.together()
        feed.stop()
        check.wait_for(worker, "all that was given is sent", feed.drained)
        check.wait_for(worker, "every post is in the log",
                       lambda: len(worker.said("post")) >= len(feed.sent()))
        code = worker.stop()
    sent = {(row.user, row.date, row.text) for row in feed.sent()}
    # The main job has posted in the same seconds.
    rows = {(item["user"]["S"], item["date"]["S"].partition("#")[0], item["text"]["S"])
            for item in world.aws.items()}
    report.equal("rotation: the exit code after SIGTERM is 0", code, 0)
    report.check("rotation: every post that was sent is in the table", bool(sent) and sent <= rows,
                 f"{len(sent - rows)} are not")
    report.equal("rotation: one line tells of it",
                 len(worker.said("rotated: a new set of credentials is in use")), 1)
    values = {f"{name} {number}": value for number, keys in enumerate(rotations.keys)
              for name, value in world.secret_values(keys, feed).items() if value}
    report.equal("rotation: no secret in the output", check.leaks(worker.everything(), values), [])


def check_injected(report: check.Report, world: Fargate, keys: check.Keys, seed: int) -> None:
    """The counter-example does its job with what is in its environment, and asks for no secret."""
    script = check.Author(seed).write()
    for row in script.before:
        item = {"user": {"S": row.user}, "date": {"S": row.date}, "text": {"S": row.text}}
        world.aws.dynamodb.put_item(TableName=check.TABLE, Item=item)
    feed = check.Feed(keys, script.parts)
    values = dict(zip(check.SECRET_IDS, astuple(keys)))
    injected = {each["name"]: values[each["name"]] for each in world.container["secrets"]}
    with world.worker(feed, **injected) as worker:
        check.wait_for(worker, "every matching post is in the log",
                       lambda: len(worker.said("post")) >= len(script.logged))
        code, answer = world.health(worker)
        report.equal("the health check finds the counter-example well", (code, answer["state"]), (0, "ok"))
        code = worker.stop()
    report.equal("the exit code after SIGTERM is 0", code, 0)
    check.check_table(report, world.aws.items(), script)
    asked = {call.operation for call in world.aws.calls_of_task_role()}
    report.equal("the table is asked to put, and nobody for a secret", asked, {"PutItem"})
    report.equal("no secret in the output",
                 check.leaks(worker.everything(), world.secret_values(keys, feed)), [])


def main() -> int:
    """Runs all checks; the exit code."""
    rootfs, image = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    report = check.Report()
    for name in [name for name in os.environ if name.startswith(("AWS_", "SSL_"))]:
        del os.environ[name]
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    seed = secrets.randbelow(10**6)
    print(f"      seed {seed}")
    check.TABLE = "twitterStream"
    try:
        with report.stage("the container"):
            keys = check.Keys.new()
            world = Fargate(rootfs, image, folder)
            world.aws.create(keys)
            if world.injected:
                check_injected(report, world, keys, seed)
            else:
                check_container(report, world)
                with report.stage("main job"):
                    check.check_main_job(report, world, keys, seed)
                with report.stage("rotation"):
                    check_rotation(report, world, keys, seed)
    finally:
        subprocess.run(["runc", "--root", folder / "runc", "list"], check=False)
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{report.passed} passed, {report.failed} failed")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
