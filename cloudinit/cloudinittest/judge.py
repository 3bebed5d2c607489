"""Asks the real cloud-init. Reads a JSON list of [question, base64] and writes a JSON list of answers.

walk    the parts that its handlers get, as [type, file name, base64]
merge   the cloud-config that its handler ends up with, and what it logged
schema  null, or why its schema refuses the document
jinja   the text that its template handler renders
"""
import base64
import json
import logging
import os
import sys
import tempfile

from cloudinit import handlers, user_data, util
from cloudinit.config import schema
from cloudinit.handlers import cloud_config, jinja_template

scratch = tempfile.mkdtemp()
logged = []


class Log(logging.Handler):
    def emit(self, record):
        if record.levelno >= logging.WARNING:
            logged.append(record.getMessage())


logging.getLogger().addHandler(Log())
logging.getLogger().setLevel(logging.WARNING)


class Paths:
    def get_ipath_cur(self, name=None):
        return os.path.join(scratch, name)

    get_cpath = get_runpath = get_ipath = get_ipath_cur


def parts(blob):
    got = []
    msg = user_data.UserDataProcessor(Paths()).process(blob)
    handlers.walk(msg, lambda data, name, payload, headers: got.append((headers["Content-Type"], name, payload, headers)), None)
    return got


def encode(payload):
    if isinstance(payload, str):
        payload = payload.encode("utf-8", "surrogateescape")
    return base64.b64encode(payload or b"").decode()


def walk(blob):
    return [[kind, name, encode(payload)] for kind, name, payload, _ in parts(blob)]


def merge(blob):
    del logged[:]
    handler = cloud_config.CloudConfigPartHandler(Paths())
    handler.cloud_fn = None
    handler.handle_part(None, handlers.CONTENT_START, None, None, None, None)
    for kind, name, payload, headers in parts(blob):
        if kind in ("text/cloud-config", "text/cloud-config-jsonp"):
            handler.handle_part(None, kind, name, payload, None, headers)
    return [handler.cloud_buf, list(logged)]


def check(blob):
    name = os.path.join(scratch, "config")
    util.write_file(name, blob)
    try:
        schema.validate_cloudconfig_file(name, schema.get_schema())
    except Exception as e:
        return str(e)
    return None


def jinja(blob):
    data = {"v1": {"instance_id": "i-1", "local_hostname": "h", "region": "r"}, "ds": {"meta_data": {"instance_id": "i-1"}}}
    return jinja_template.render_jinja_payload(blob.decode(), "part", data)


answers = []
stdout, sys.stdout = sys.stdout, sys.stderr
for question, data in json.load(sys.stdin):
    blob = base64.b64decode(data)
    answers.append({"walk": walk, "merge": merge, "schema": check, "jinja": jinja}[question](blob))
json.dump(answers, stdout, default=str)
stdout.flush()  # at exit Python flushes sys.stdout only, which is another now
