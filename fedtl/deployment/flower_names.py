"""
Every name of flwr that fedtl uses although flwr does not document it. For a new version of flwr, run
tests/deployment/test_flower_names.py: it says which of them moved. The files that are replaced in part also have a hash, which
``flower_version.check_flower`` compares at run time.
"""

PUBLIC_MODULES = ("flwr.app", "flwr.clientapp", "flwr.serverapp")

PRIVATE_NAMES = (  # module:name
    "flwr.cli.build:build_fab_from_disk",
    "flwr.cli.config_utils:load_and_validate",
    "flwr.proto.control_pb2:ListNodesRequest",
    "flwr.proto.control_pb2:ListNodesResponse",
    "flwr.proto.control_pb2:ListRunsRequest",
    "flwr.proto.control_pb2:ListRunsResponse",
    "flwr.proto.control_pb2:RegisterNodeRequest",
    "flwr.proto.control_pb2:RegisterNodeResponse",
    "flwr.proto.control_pb2:StartRunRequest",
    "flwr.proto.control_pb2:StartRunResponse",
    "flwr.proto.control_pb2:StopRunRequest",
    "flwr.proto.control_pb2:UnregisterNodeRequest",
    "flwr.proto.fab_pb2:Fab",
    "flwr.proto.message_pb2:ConfirmMessageReceivedResponse",
    "flwr.proto.message_pb2:ObjectTree",
    "flwr.proto.transport_pb2:Scalar",
    "flwr.server.superlink.linkstate:SqlLinkState",
    "flwr.supercore.cli:flower_superexec",
    "flwr.supercore.constant:FLEET_HTTP_PUBLIC_KEY_HEADER",
    "flwr.supercore.constant:TaskType",
    "flwr.supercore.date:now",
    "flwr.supercore.fab:Fab",
    "flwr.supercore.heartbeat:HEARTBEAT_DEFAULT_INTERVAL",
    "flwr.supercore.inflatable.inflatable_object:get_object_body",
    "flwr.supercore.inflatable.inflatable_object:get_object_head_values_from_object_content",
    "flwr.supercore.inflatable.inflatable_object:is_valid_sha256_hash",
    "flwr.supercore.inflatable.inflatable_object:iterate_object_tree",
    "flwr.supercore.inflatable.inflatable_utils:inflate_object_from_contents",
    "flwr.supercore.inflatable.inflatable_utils:pull_and_inflate_object_from_tree",
    "flwr.supercore.inflatable.inflatable_utils:pull_objects",
    "flwr.supercore.object_store.sql_object_store:SqlObjectStore",
    "flwr.supercore.sql_mixin:SQLITE_PRAGMAS",
    "flwr.supercore.state.schema.corestate_models:ObjectPushSession",
    "flwr.supercore.state.schema.linkstate_models:MessageIns",
    "flwr.supercore.state.schema.linkstate_models:MessageRes",
    "flwr.supercore.state.schema.objectstore_models:ObjectChild",
    "flwr.supercore.state.schema.objectstore_models:RunObject",
    "flwr.supercore.state.schema.objectstore_models:StoredObject",
    "flwr.supercore.superexec.executor:ExecutionSpec",
    "flwr.supercore.superexec.executor:LaunchResult",
    "flwr.supercore.superexec.executor.subprocess_executor:SubprocessExecutor",
    "flwr.supercore.superexec.plugin.base_exec_plugin:AutoExecPlugin",
    "flwr.supercore.utils:int64_to_uint64",
    "flwr.supercore.utils:uint64_to_int64",
    "flwr.superlink.cli:flower_superlink",
    "flwr.superlink.grid.http_grid:inflate_object_from_contents",
    "flwr.superlink.servicer.fleet.fleet_handlers:confirm_message_received",
    "flwr.superlink.servicer.fleet.fleet_handlers:push_messages",
    "flwr.superlink.servicer.fleet.fleet_handlers:push_object",
    "flwr.supernode.cli:flower_supernode",
    "flwr.supernode.cli:flwr_clientapp",
    "flwr.supernode.fleet_http_connection:HEARTBEAT_DEFAULT_INTERVAL",
    "flwr.supernode.start_client_internal:_pull_and_store_message",
    "flwr.supernode.start_client_internal:_verify_fab",
    "flwr.supernode.start_client_internal:time",
)

# Paths below /v1/control/ of the SuperLink; nginx.SUPERNODE_CALLS are those below /v1/fleet/.
CONTROL_CALLS = ("list-nodes", "list-runs", "register-node", "start-run", "stop-run", "unregister-node")
HEALTH_CALL = "/health"  # over HTTP; Flower's gRPC health service is another one, and is not used
