"""A session of the common commands; every answer and event has to be valid by the server's own schema."""

import asyncio
import json
import sys

from qemu.qmp import ExecuteError, QMPClient

MONITOR, QCOW2, SECOND_SOCKET = sys.argv[1:4]
JSON_TYPES = {
    "string": str, "number": (int, float), "int": int, "boolean": bool, "null": type(None),
    "object": dict, "array": list,
}


class Schema:
    """What `query-qmp-schema` says."""

    def __init__(self, entries):
        self.types = {entry["name"]: entry for entry in entries}
        assert len(self.types) == len(entries), "two entities with one name"

    def check(self, name, value, where):
        """Fails if the value is not of the type."""
        entry = self.types[name]
        kind = entry["meta-type"]
        if kind == "builtin":
            expected = entry["json-type"]
            fits = expected == "value" or isinstance(value, JSON_TYPES[expected])
            if isinstance(value, bool) and expected in ("int", "number"):
                fits = False
            assert fits, f"{where}: {value!r} is not {expected}"
        elif kind == "enum":
            words = [member["name"] for member in entry["members"]]
            assert value in words, f"{where}: {value!r} is not in {words}"
        elif kind == "array":
            assert isinstance(value, list), where
            for i, element in enumerate(value):
                self.check(entry["element-type"], element, f"{where}[{i}]")
        elif kind == "alternate":
            errors = []
            for member in entry["members"]:
                try:
                    return self.check(member["type"], value, where)
                except AssertionError as error:
                    errors.append(error)
            raise AssertionError(f"{where}: none of the alternatives: {errors}")
        elif kind == "object":
            self.check_object(entry, value, where)
        else:
            raise AssertionError(f"{where}: {kind} is no type")

    def check_object(self, entry, value, where):
        assert isinstance(value, dict), where
        members = list(entry["members"])
        for variant in entry.get("variants", []):
            if variant["case"] == value.get(entry["tag"]):
                members += self.types[variant["type"]]["members"]
        for member in members:
            if member["name"] in value:
                self.check(member["type"], value[member["name"]], f"{where}.{member['name']}")
            else:
                assert "default" in member, f"{where}: {member['name']} is missing"
        strangers = value.keys() - {member["name"] for member in members}
        assert not strangers, f"{where}: {strangers} are not in the schema"


class Session:
    """A client that shows and checks what it gets."""

    def __init__(self):
        self.client = QMPClient("session")
        self.schema = None
        self.count = 0

    async def ask(self, command, **arguments):
        """A command that has to succeed."""
        arguments = {name.replace("_", "-") if name in DASHED else name: value for name, value in arguments.items()}
        print("->", json.dumps({"execute": command, "arguments": arguments}))
        answer = await self.client.execute(command, arguments or None)
        if self.schema:
            entry = self.schema.types[command]
            assert entry["meta-type"] == "command"
            self.schema.check(entry["ret-type"], answer, command)
        shown = json.dumps({"return": answer})
        print("<-", shown if len(shown) < 600 else f"{shown[:600]}... ({len(shown)} bytes)")
        self.count += 1
        return answer

    async def refused(self, command, arguments, kind, words):
        """A command that has to be refused, with these words in its error."""
        print("->", json.dumps({"execute": command, "arguments": arguments}))
        try:
            await self.client.execute(command, arguments)
        except ExecuteError as error:
            print("<-", json.dumps({"error": {"class": error.error_class, "desc": str(error)}}))
            assert error.error_class == kind, error.error_class
            assert words in str(error), f"{words!r} is not in {str(error)!r}"
            self.count += 1
            return
        raise AssertionError(f"{command} {arguments} was carried out")

    async def event(self, name):
        """The next event, which has to be this one."""
        event = dict(await asyncio.wait_for(self.client.events.get(), 20))
        print("<-", json.dumps(event))
        assert event["event"] == name, event
        entry = self.schema.types[name]
        assert entry["meta-type"] == "event"
        self.schema.check(entry["arg-type"], event.get("data", {}), name)
        assert set(event["timestamp"]) == {"seconds", "microseconds"}
        return event.get("data", {})


DASHED = {"node_name", "query_nodes", "command_line", "boundaries_flush", "write_threshold"}
GENERIC, ABSENT, UNKNOWN = "GenericError", "DeviceNotFound", "CommandNotFound"


async def main():
    session = Session()
    ask, refused, event = session.ask, session.refused, session.event
    await session.client.connect(MONITOR)
    print("<-", json.dumps({"QMP": session.client.greeting._asdict()["QMP"]}))

    entries = await ask("query-qmp-schema")
    session.schema = Schema(entries)
    session.schema.check(session.schema.types["query-qmp-schema"]["ret-type"], entries, "schema")
    commands = {command["name"] for command in await ask("query-commands")}
    described = {entry["name"] for entry in entries if entry["meta-type"] == "command"}
    assert commands == described, commands ^ described
    version = await ask("query-version")
    assert version["package"].startswith("Lunar ")
    assert (await ask("query-status")) == {"running": True, "status": "running"}

    # What the command line has declared.
    (block,) = await ask("query-block")
    assert (block["device"], block["qdev"]) == ("system", "disk0")
    assert block["inserted"]["image"]["virtual-size"] == 64 << 20
    assert len(await ask("query-named-block-nodes")) == 1
    assert (await ask("query-blockstats"))[0]["device"] == "system"
    assert (await ask("qom-get", path="/machine/peripheral/disk0", property="scsi-id")) == 0

    # A node, a disk with it, and back.
    await ask("blockdev-add", driver="qcow2", node_name="data", discard="unmap",
              cache={"direct": False}, file={"driver": "file", "filename": QCOW2})
    await ask("device_add", driver="scsi-hd", id="disk1", bus="scsi0.0", drive="data", lun=5, serial="D4T4",
              removable=True)
    assert {"name": "disk1", "type": "child<scsi-hd>"} in await ask("qom-list", path="/machine/peripheral")
    await ask("qom-list", path="/machine/peripheral/disk1")
    assert (await ask("qom-get", path="disk1", property="lun")) == 5
    names = {row["name"] for row in await ask("device-list-properties", typename="scsi-hd")}
    assert {"drive", "lun", "serial", "wwn"} <= names
    assert len(await ask("query-block")) == 2
    assert len(await ask("query-blockstats", query_nodes=True)) >= 2

    # What is counted, and told of.
    await ask("block-latency-histogram-set", id="disk1", boundaries=[10_000, 1_000_000],
              boundaries_flush=[50_000_000])
    (stats,) = [entry["stats"] for entry in await ask("query-blockstats") if entry["qdev"] == "disk1"]
    assert stats["rd_latency_histogram"] == {"boundaries": [10_000, 1_000_000], "bins": [0, 0, 0]}
    assert stats["flush_latency_histogram"]["boundaries"] == [50_000_000]
    await refused("block-latency-histogram-set", {"id": "disk1", "boundaries": [2, 1]}, GENERIC, "boundaries")
    await refused("block-latency-histogram-set", {"id": "nope"}, ABSENT, "Device 'nope' not found")
    await ask("block-latency-histogram-set", id="disk1")
    await ask("block-set-write-threshold", node_name="data", write_threshold=1 << 20)
    (node,) = [node for node in await ask("query-named-block-nodes") if node["node-name"] == "data"]
    assert node["write_threshold"] == 1 << 20
    await ask("block-set-write-threshold", node_name="data", write_threshold=0)
    await refused("block-set-write-threshold", {"node-name": "nope", "write-threshold": 1}, GENERIC,
                  "Device 'nope' not found")

    # What does not go.
    await refused("blockdev-del", {"node-name": "data"}, GENERIC, "in use by disk1")
    await refused("blockdev-del", {"node-name": "nope"}, GENERIC, "Failed to find node with node-name='nope'")
    await refused("device_add", {"driver": "scsi-hd", "drive": "data", "id": "x"}, GENERIC, "in use by disk1")
    await refused("blockdev-add", {"driver": "null-co", "node-name": "data"}, GENERIC, "exists already")
    await refused("blockdev-add", {"driver": "file", "node-name": "again", "filename": QCOW2}, GENERIC, QCOW2)
    await ask("blockdev-add", driver="null-co", node_name="other", size=1 << 20)
    await refused("device_add", {"driver": "scsi-hd", "drive": "other", "scsi-id": 0, "lun": 5}, GENERIC,
                  "is taken by disk1")
    await refused("device_add", {"driver": "scsi-hd", "drive": "other", "id": "disk1"}, GENERIC, "exists already")
    await refused("device_add", {"driver": "scsi-hd", "drive": "nope"}, GENERIC, "\"nope\"")
    await refused("device_add", {"driver": "scsi-hd", "drive": "other", "bus": "nope.0"}, GENERIC, "nope.0")
    await refused("device_add", {"driver": "scsi-hd", "drive": "other", "lun": "many"}, GENERIC, "lun=many")
    await refused("device_add", {"driver": "scsi-dh"}, GENERIC, "did you mean")
    await refused("device_add", {"id": "x"}, GENERIC, "Parameter 'driver' is missing")
    await refused("device_add", {"driver": 5}, GENERIC, "Invalid parameter type for 'driver', expected: string")
    await refused("device_del", {"id": "nope"}, ABSENT, "Device 'nope' not found")
    await refused("device_del", {"id": "x", "force": True}, GENERIC, "Parameter 'force' is unexpected")
    await refused("blockdev-add", {"driver": "nope"}, GENERIC, "Parameter 'driver' does not accept value 'nope'")
    await refused("blockdev-add", {"driver": "null-co", "read-only": "on"}, GENERIC,
                  "Invalid parameter type for 'read-only', expected: boolean")
    await refused("blockdev-add", {"driver": "null-co", "speed": 1}, GENERIC, "Parameter 'speed' is unexpected")
    await refused("blockdev-add", {"driver": "file", "node-name": "f", "filename": "/nowhere/x"}, GENERIC,
                  "/nowhere")
    await refused("qom-get", {"path": "disk1", "property": "nope"}, GENERIC, "Property 'scsi-hd.nope' not found")
    await refused("qom-list", {"path": "/nope"}, ABSENT, "Device '/nope' not found")
    await refused("make-coffee", {}, UNKNOWN, "The command make-coffee has not been found")
    assert len(await ask("query-block")) == 2, "nothing that was refused has left anything"

    # Media come and go.
    block = next(block for block in await ask("query-block") if block["qdev"] == "disk1")
    assert (block["removable"], block["locked"], block["tray_open"]) == (True, False, False)
    await ask("blockdev-open-tray", id="disk1")
    moved = await event("DEVICE_TRAY_MOVED")
    assert (moved["id"], moved["tray-open"]) == ("disk1", True)
    await refused("blockdev-insert-medium", {"id": "disk1", "node-name": "other"}, GENERIC, "already is a medium")
    await ask("blockdev-remove-medium", id="disk1")
    block = next(block for block in await ask("query-block") if block["qdev"] == "disk1")
    assert "inserted" not in block and block["tray_open"]
    await ask("blockdev-insert-medium", id="disk1", node_name="other")
    await ask("blockdev-close-tray", id="disk1")
    moved = await event("DEVICE_TRAY_MOVED")
    assert (moved["id"], moved["tray-open"]) == ("disk1", False)
    await refused("blockdev-remove-medium", {"id": "disk1"}, GENERIC, "Tray of device 'disk1' is not open")
    await ask("eject", id="disk1")
    assert (await event("DEVICE_TRAY_MOVED"))["tray-open"]
    await ask("blockdev-insert-medium", id="disk1", node_name="data")
    await ask("blockdev-close-tray", id="disk1")
    assert not (await event("DEVICE_TRAY_MOVED"))["tray-open"]
    await refused("eject", {"id": "disk0"}, GENERIC, "Device 'disk0' is not removable")
    await refused("eject", {"id": "nope"}, ABSENT, "Device 'nope' not found")
    await refused("eject", {}, GENERIC, "Need exactly one of 'device' and 'id'")

    # More room, and a pause.
    await ask("block_resize", node_name="data", size=128 << 20)
    await refused("block_resize", {"node-name": "data", "size": 1 << 20}, GENERIC, "force")
    await ask("stop")
    await event("STOP")
    assert (await ask("query-status")) == {"running": False, "status": "paused"}
    await ask("cont")
    await event("RESUME")

    # The same id, again and again.
    for _ in range(5):
        await ask("device_del", id="disk1")
        gone = await event("DEVICE_DELETED")
        assert gone == {"device": "disk1", "path": "/machine/peripheral/disk1"}
        await ask("device_add", driver="scsi-hd", id="disk1", drive="data", lun=5)
    await ask("device_del", id="/machine/peripheral/disk1")
    await event("DEVICE_DELETED")
    await ask("blockdev-del", node_name="data")
    await ask("blockdev-del", node_name="other")

    # A controller with a disk, which goes with it.
    await ask("device_add", driver="virtio-scsi-pci", id="scsi1", socket=SECOND_SOCKET, num_queues=2)
    await ask("blockdev-add", driver="memory", node_name="ram", size=1 << 20)
    await ask("device_add", driver="scsi-hd", id="fast", bus="scsi1.0", drive="ram")
    await ask("device_del", id="scsi1")
    gone = [(await event("DEVICE_DELETED"))["device"] for _ in range(2)]
    assert sorted(gone) == ["fast", "scsi1"], gone

    # As people type.
    text = await ask("human-monitor-command", command_line="info block")
    assert "Attached to:      disk0" in text, text
    text = await ask("human-monitor-command", command_line="device_add scsi-hd,drive=ram,id=typed")
    assert text == "", text
    text = await ask("human-monitor-command", command_line="device_del nope")
    assert text == "Error: Device 'nope' not found\n", text
    await ask("human-monitor-command", command_line="device_del typed")
    await event("DEVICE_DELETED")

    await ask("quit")
    assert (await event("SHUTDOWN")) == {"guest": False, "reason": "host-qmp-quit"}
    print(f"{session.count} commands")


asyncio.run(main())
