"""The HTTP face: `/v1` by noun, OpenAPI at `/openapi.json`, problem+json for every failure."""

from mover.api.admission import Face
from mover.api.app import OPERATIONS, make_app
from mover.api.audit import Trail
from mover.api.limits import Limits
from mover.api.rooms import Rooms
from mover.api.serve import Server, check_socket_path, serve

__all__ = ["OPERATIONS", "Face", "Limits", "Rooms", "Server", "Trail", "check_socket_path", "make_app", "serve"]
