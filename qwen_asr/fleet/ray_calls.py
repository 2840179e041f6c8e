"""`RayCalls`: engines on Ray Serve, see `ray_engine`. This process joins the cluster as one of its drivers.

Ray Serve chooses the engine: calls with the same key go to the same replica, by a consistent hash. It does not repeat a
call that has begun, and neither does this: the scheduler does. A thread asks Ray Serve how many engines run, since a
call waits there for ever while there is none.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib.util
import logging
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

from qwen_asr.config.limits import FleetLimits
from qwen_asr.errors import BadInput, QwenASRError, StartupError
from qwen_asr.fleet.calls import EngineLost, NoEngine
from qwen_asr.fleet.messages import VERSION, Hello, HelloRequest, Reply, Request, decode, encode

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

log = logging.getLogger(__name__)

_HELLO_SECONDS = 10.0
"""How long an engine may take to say who it is, before it, or another one, is asked again."""


class RayCalls:
    """See `Calls`. `wait` waits for the first engine. `application` is the name that `serve run` or its file gave.

    Raises StartupError if Ray is not installed, or if this machine is not part of a cluster.
    """

    def __init__(self, application: str = "default", limits: FleetLimits | None = None) -> None:
        self.running = 0
        """Engines that run now."""
        self._application = application
        self._limits = limits or FleetLimits()
        self._ray = _join_cluster()
        self._reason: str | None = f"Waiting for the application “{application}” of Ray Serve."
        self._hello: Hello | None = None
        self._deployed_at = 0.0  # when the application was deployed that `_hello` is of
        self._handle: DeploymentHandle[Any] | None = None
        self._lost: set[str] = set()  # replicas that died while a call was under way
        self._tasks: set[asyncio.Task[Any]] = set()  # the loop's
        self._ready, self._closed = threading.Event(), threading.Event()
        self._loop = asyncio.new_event_loop()
        self._threads = [
            threading.Thread(target=self._loop.run_forever, name="qwen-asr-ray", daemon=True),
            threading.Thread(target=self._watch, name="qwen-asr-ray-status", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def hello(self) -> Hello:
        """See `Calls`. Raises `NoEngine` before the first engine has answered."""
        if self._hello is None:
            raise NoEngine(self._reason or "No engine has answered yet.")
        return self._hello

    @property
    def lost(self) -> int:
        """How many engines died while a call was under way."""
        return len(self._lost)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until an engine has answered; returns whether one has."""
        return self._ready.wait(seconds)

    def call(self, request: Request, key: str) -> Future[Reply]:
        """See `Calls`."""
        handle, reason = self._handle, self._reason
        if reason is not None or handle is None:
            failed: Future[Reply] = Future()
            failed.set_exception(NoEngine(reason or "No engine has answered yet."))
            return failed
        return self._start(handle, request, key)

    def unavailable_reason(self) -> str | None:
        """See `Calls`."""
        return self._reason

    def close(self) -> None:
        """See `Calls`. This process leaves the cluster."""
        if self._closed.is_set():
            return
        self._reason = "The connection to Ray Serve is closed."
        self._closed.set()
        self._drop_calls()
        self._threads[1].join()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._threads[0].join()
        self._loop.close()
        with _keeping_sigterm():
            self._ray.shutdown()

    # --- calls

    def _start(self, handle: DeploymentHandle[Any], request: Request, key: str) -> Future[Reply]:
        call = self._call(handle, encode(request), key)
        try:
            return asyncio.run_coroutine_threadsafe(call, self._loop)
        except RuntimeError:  # the loop is closed
            call.close()
            failed: Future[Reply] = Future()
            failed.set_exception(EngineLost("The connection to Ray Serve is closed."))
            return failed

    async def _call(self, handle: DeploymentHandle[Any], data: bytes, key: str) -> Reply:
        from ray.exceptions import RayActorError, RayError, RayTaskError
        from ray.serve.exceptions import RayServeException

        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._tasks.add(task)
        response = handle.options(session_id=key).call.remote(data)
        try:
            return cast("Reply", decode(await response))
        except asyncio.CancelledError:
            response.cancel()
            if self._reason is None and task.cancelling():  # whoever called wants no answer any more
                raise
            raise EngineLost(self._reason or "Ray Serve has cancelled the call.") from None
        except RayActorError as error:
            self._lost.add(error.actor_id or "")
            raise EngineLost(f"The engine is gone ({type(error).__name__}).") from error
        except RayTaskError as error:
            kind = type(error.cause).__name__
            raise QwenASRError(f"The engine failed ({kind}). The log of its replica says more.") from error
        except (RayError, RayServeException) as error:
            raise EngineLost(f"The engine cannot be reached ({type(error).__name__}).") from error
        finally:
            self._tasks.discard(task)

    def _drop_calls(self) -> None:
        """Let all calls under way fail with `EngineLost`; `_reason` is why."""

        async def drop() -> None:
            for task in (tasks := list(self._tasks)):
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

        asyncio.run_coroutine_threadsafe(drop(), self._loop).result()

    # --- which engines there are

    def _watch(self) -> None:
        from ray.exceptions import ActorDiedError

        while True:
            try:
                self._look()
            except ActorDiedError:
                self._rejoin()
            except Exception as error:
                # Engines that run may still be reached, without Ray Serve's controller too.
                log.warning("Ray Serve, or an engine, does not answer (%s): %s", type(error).__name__, error)
            if self._closed.wait(self._limits.ping_seconds):
                return

    def _look(self) -> None:
        from ray import serve

        application = serve.status().applications.get(self._application)
        if application is None:
            self._gone(
                f"Ray Serve has no application “{self._application}”: start it with "
                "`serve run qwen_asr.fleet.ray_engine:app`, or name the right one with --engine ray:NAME."
            )
            return
        running = sum(one.replica_states.get("RUNNING", 0) for one in application.deployments.values())
        if not running:
            self._gone(
                f"No engine runs on Ray Serve: the application is {application.status.value}, see `serve status`."
            )
            return
        if self._handle is None:
            self._handle = serve.get_app_handle(self._application)
        if self._hello is None or self._deployed_at != application.last_deployed_time_s:
            self._meet(self._handle)
            self._deployed_at = application.last_deployed_time_s
        if self._reason is not None:
            log.info("Engines run on Ray Serve: %d.", running)
        self.running, self._reason = running, None
        self._ready.set()

    def _rejoin(self) -> None:
        """After a `serve shutdown`: in a process that has met Ray Serve's controller, Ray looks for no other one."""
        self._gone("Ray Serve was shut down.")
        self._handle = None
        with _keeping_sigterm():
            self._ray.shutdown()
        try:
            self._ray = _join_cluster()
        except StartupError as error:
            log.warning("%s", error)

    def _gone(self, reason: str) -> None:
        if self.running:
            log.error("%s", reason)
        self.running, self._reason = 0, reason
        self._drop_calls()

    def _meet(self, handle: DeploymentHandle[Any]) -> None:
        """Learn which checkpoint the engines have. All replicas of a deployment have the same options."""
        asked = self._start(handle, HelloRequest(), "")
        try:
            hello = asked.result(_HELLO_SECONDS)
        finally:
            asked.cancel()
        if not isinstance(hello, Hello) or hello.version != VERSION:
            raise BadInput("The engines speak another version of the messages: run the same version of the program.")
        if self._hello is not None and self._hello.info.digest != hello.info.digest:
            log.warning("The engines have another checkpoint now: %s in %s.", hello.info.name, hello.info.form)
        self._hello = hello


@contextlib.contextmanager
def _keeping_sigterm() -> Iterator[None]:
    """Puts back the process's handler of SIGTERM, which Ray's core replaces when it starts, and removes when it ends.

    Python can do so only on its main thread, and knows nothing of the core's handler; the C library can on any.
    """
    sigaction = ctypes.CDLL(None).sigaction
    before = ctypes.create_string_buffer(1024)  # more than `struct sigaction` has anywhere
    sigaction(signal.SIGTERM, None, before)
    try:
        yield
    finally:
        sigaction(signal.SIGTERM, before, None)


def check_installed() -> None:
    """Raises StartupError without Ray. It only looks: importing it takes seconds."""
    if importlib.util.find_spec("ray") is None:
        raise _missing("ray")


def _missing(package: str | None) -> StartupError:
    return StartupError(
        f"--engine ray needs Ray Serve, which is not installed ({package}): run pip install -r "
        'requirements-ray.txt, or pip install ".[ray]".'
    )


def _join_cluster() -> Any:
    """The package `ray`, connected to the cluster that this machine is part of."""
    try:
        import ray
        import ray.serve
    except ImportError as error:
        raise _missing(error.name) from None
    for name in ("ray", "ray.serve"):  # what matters is logged here, as a sentence
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        # On the main thread Ray would also replace Python's handler of SIGTERM.
        with _keeping_sigterm(), ThreadPoolExecutor(1) as pool:
            pool.submit(
                ray.init, address="auto", configure_logging=False, log_to_driver=False, ignore_reinit_error=True
            ).result()
    except ConnectionError:
        raise StartupError(
            "--engine ray found no Ray cluster on this machine: join one with `ray start --address=HEAD:6379`, or set "
            "RAY_ADDRESS."
        ) from None
    except (RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise StartupError(
            f"--engine ray cannot join the cluster ({reason}): all its machines need the same versions of Python and "
            "Ray, and `ray status` has to work on this one."
        ) from None
    return ray
