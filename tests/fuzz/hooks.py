"""Leads what schemathesis makes up to things that are there: half of the requests are a good one with some fields of a made-up
one, on a few names and ids. Programs are only ever these two; waits are short, unless they are beyond what is allowed."""

import atexit
import collections
import gzip
import hashlib
import io
import json
import os
import random
import tarfile

import requests
import schemathesis

IDS = [f"dp_fuzz00000{n}" for n in range(8)]
SERVICES = ["shop", "blog"]
VERSIONS = ["1.0.0", "2.0.0", "3.0.0-rc.1"]
SHORT = 300
YEARS = 315_360_000_000
# The timeouts that a request about deployments has; others are unknown fields, which are refused.
BOTH = ("health_timeout_ms", "drain_timeout_ms")
TIMEOUTS = {"post": BOTH[:1], "put": BOTH, "patch": BOTH, "delete": BOTH[1:]}
CHOICE = random.Random(int(os.environ.get("FUZZ_SEED", "1")))


def archive():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("health")
        info.size = 2
        tar.addfile(info, io.BytesIO(b"ok"))
    return gzip.compress(out.getvalue(), mtime=0)


ARCHIVE = archive()
DIGEST = hashlib.sha256(ARCHIVE).hexdigest()
# `/health` is a file of the release.
SERVE = ["sh", "-c", "exec python3 -m http.server $PORT"]
HEALTH = {"path": "/health", "status": 200, "host": None, "timeout_ms": SHORT, "interval_ms": 50, "rise": 1}
ACTOR = {"user": "fuzz", "pid": 1}


def site(service):
    base = 8800 if service == "shop" else 8900
    ports = {"check": base, "main": base + 1, "backup": base + 2}
    return {"ports": ports, "address": "127.0.0.1", "balancer_is_local": CHOICE.random() < 0.5, "port_range": [20000, 20010], "keep_releases": 1}


def how():
    if CHOICE.random() < 0.6:
        return {"workload": {"external": {"uri": f"http://127.0.0.1:{CHOICE.choice([9001, 9002, 9003, 9004])}"}}}, None
    argv = SERVE if CHOICE.random() < 0.8 else ["/bin/false"]
    return {"workload": {"command": {"argv": argv}}, "grace_ms": SHORT}, DIGEST


def good(method, path, service):
    if path.endswith("/deployments"):
        service = CHOICE.choice(SERVICES)
        run, digest = how()
        return {
            "id": CHOICE.choice(IDS), "service": service, "version": CHOICE.choice(VERSIONS), "how": run, "digest": digest,
            "health": HEALTH, "health_timeout_ms": 2000, "site": site(service), "actor": ACTOR,
        }
    if path.endswith("/deployments/{id}") and method in ("put", "patch"):
        if CHOICE.random() < 0.5:
            return {"uri": f"http://127.0.0.1:{CHOICE.choice([9001, 9002, 9003, 9004])}"}
        run, digest = how()
        return {"how": run, "digest": digest, "site": site("shop")}
    if path.endswith("/merge"):
        return {"into": CHOICE.choice(IDS), "revision": 1}
    if path.endswith("/main"):
        return {"version": CHOICE.choice(VERSIONS), "trial_ms": CHOICE.choice([0, SHORT])}
    if path.endswith("/status"):
        return {"service": "shop", "ports": site("shop")["ports"], "main": "127.0.0.1:8801", "health": HEALTH}
    if path.endswith("/probe"):
        return {"address": "127.0.0.1:9001", "health": HEALTH}
    return {}


def tame(value, name=""):
    """Short waits, and no program but ours; values that have to be refused stay."""
    if isinstance(value, dict):
        return {key: tame(one, key) for key, one in value.items()}
    if name == "argv" and isinstance(value, list):
        return SERVE if value == SERVE else ["/bin/false", *value[1:]]
    if isinstance(value, list):
        return [tame(one, name) for one in value]
    if name.endswith("_ms") and isinstance(value, (int, float)) and 2000 < value <= YEARS:
        return SHORT
    return value


ANSWERS = collections.Counter()


@schemathesis.hook
def after_call(context, case, response):
    ANSWERS[f"{case.operation.method.upper()} {case.operation.path.removeprefix('/v1')} {response.status_code}"] += 1


@schemathesis.hook
def before_call(context, case, kwargs):
    """Operations are tried one after another: what an earlier one took away comes back now and then."""
    if CHOICE.random() < 0.04:
        service, version = CHOICE.choice(SERVICES), CHOICE.choice(VERSIONS)
        at = f"http://127.0.0.1:8000/v1/services/{service}/releases/{version}"
        requests.put(at, data=ARCHIVE, timeout=60)
        body = {**good("post", "/deployments", None), "service": service, "site": site(service), "version": version}
        deployed = requests.post("http://127.0.0.1:8000/v1/deployments", json=body, timeout=60)
        ANSWERS[f"POST /deployments {deployed.status_code}"] += 1
        if os.environ.get("FUZZ_WHY"):
            ANSWERS[f"why {deployed.status_code} {deployed.text[:160]}"] += 1


@atexit.register
def tell():
    with open("answers.json", "w", encoding="utf-8") as file:
        json.dump(ANSWERS, file)


@schemathesis.serializer("application/gzip")
def as_it_is(context, value):
    return {"data": value if isinstance(value, bytes) else str(value).encode(errors="replace")}


@schemathesis.hook
def map_body(context, body):
    operation = context.operation
    method, path = operation.method.lower(), operation.path
    if path.endswith("/releases/{release}"):
        return ARCHIVE if CHOICE.random() < 0.5 else body
    if not isinstance(body, dict):
        return body
    if CHOICE.random() < 0.6:
        base = good(method, path, None)
        body = {**base, **{name: value for name, value in body.items() if name not in base or CHOICE.random() < 0.1}}
    body = tame(body)
    if path.endswith(("/deployments", "/deployments/{id}")):
        for name in TIMEOUTS.get(method, ()):
            body.setdefault(name, SHORT)
    return body


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    known = {"id": IDS, "service": SERVICES, "release": [*VERSIONS, "1.0.0~2"]}
    if isinstance(path_parameters, dict):
        for name in path_parameters:
            if name in known and CHOICE.random() < 0.6:
                path_parameters[name] = CHOICE.choice(known[name])
    return path_parameters


@schemathesis.hook
def map_query(context, query):
    if isinstance(query, dict):
        # Followed logs do not end.
        query.pop("follow", None)
        wait = query.get("drain_timeout_ms")
        if isinstance(wait, int) and SHORT < wait <= YEARS:
            query["drain_timeout_ms"] = SHORT
    return query
