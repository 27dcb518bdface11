"""A complete Neargate client in Python, made from the .proto files alone.

Lists the agent's services by reflection, registers a task definition, runs it, watches it to its end
and reads its logs.

    python3 -m venv venv && venv/bin/pip install -r requirements.txt
    venv/bin/python client.py /run/neargate/neargated.sock ../../hello.json
"""

import json
import pathlib
import sys
import tempfile

import grpc
from google.protobuf import json_format
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_tools import protoc

PROTO = pathlib.Path(__file__).resolve().parents[3] / "proto"


def load_stubs():
    """Compiles the .proto files into a directory of their own and imports the result."""
    out = tempfile.mkdtemp()
    files = [str(path) for path in sorted((PROTO / "neargate/v1").glob("*.proto"))]
    if protoc.main(["protoc", f"-I{PROTO}", f"--python_out={out}", f"--grpc_python_out={out}", *files]) != 0:
        raise SystemExit("the .proto files do not compile")
    sys.path.insert(0, out)
    from neargate.v1 import task_definition_pb2, task_pb2, task_pb2_grpc

    return task_definition_pb2, task_pb2, task_pb2_grpc


def main(socket, definition_file):
    definitions, tasks, services = load_stubs()
    # Without a name of its own grpcio would send the socket's path as :authority, which HTTP/2 servers refuse.
    channel = grpc.insecure_channel(f"unix:{socket}", options=[("grpc.default_authority", "localhost")])

    print("services:", ", ".join(sorted(ProtoReflectionDescriptorDatabase(channel).get_services())))

    service = services.TaskServiceStub(channel)
    request = definitions.RegisterTaskDefinitionRequest()
    json_format.ParseDict(json.loads(pathlib.Path(definition_file).read_text()), request)
    registered = service.RegisterTaskDefinition(request).task_definition
    print(f"registered {registered.family}:{registered.revision}")

    answer = service.RunTask(tasks.RunTaskRequest(task_definition=registered.task_definition_arn))
    if answer.failures:
        raise SystemExit(f"not placed: {answer.failures}")
    task = answer.tasks[0]
    print("running", task.task_arn)

    for change in service.WatchTasks(tasks.WatchTasksRequest(tasks=[task.task_arn])):
        print("status:", change.task.last_status)
        if change.task.last_status == "STOPPED":
            task = change.task
            break

    for line in service.GetLogs(tasks.GetLogsRequest(task=task.task_arn)):
        print(f"{line.container} {line.stream}: {line.data.decode(errors='replace')}", end="")
    for container in task.containers:
        print(f"{container.name} exited with {container.exit_code}")
    return max(container.exit_code for container in task.containers)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    raise SystemExit(main(sys.argv[1], sys.argv[2]))
