"""What one forward pass changes in a network, switched on and off by one owner.

A pass with a LoRA, with feature taps, with another image's keys and values or in low memory changes
modules of the user's network. Every such change is a ``Switch``: it is one entry in a dictionary of
one module, carries what was there before, and is known as ours by its type. ``run`` switches them
on, runs the pass and switches them off; nothing else in the package changes a network.

An interrupt may strike at any instruction, the ones that switch off among them. So ``run`` switches
off at two levels, and each pass begins by removing whatever of ours it finds, as nothing of ours
belongs there between two passes. What others have put into the network stays.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

__all__ = ["Around", "Behind", "PassDone", "Switch", "Turn", "lock_of", "run", "switched_on"]

T = TypeVar("T")

_NOTHING = object()
_ATTEMPTS = 100  # more interrupts in a row than a hand makes while a network is moved


class PassDone(Exception):  # noqa: N818 - a signal, not an error
    """Raised inside a forward pass when all that was asked for has been seen."""


class Switch:
    """One change of one module; on between ``put`` and ``take``.

    Args:
        module: what it changes.
        change: what is done there, see the kinds of switches.
    """

    def __init__(self, module: nn.Module, change: Callable[..., Any]) -> None:
        self.module = module
        self.change = change

    def put(self) -> None:
        """Switch it on."""
        raise NotImplementedError

    def take(self) -> None:
        """Switch it off, whether it is on or not."""
        raise NotImplementedError


class Around(Switch):
    """Calls ``change(forward, *args, **kwargs)`` in place of the module's ``forward``."""

    def put(self) -> None:
        self.before = vars(self.module).get("forward", _NOTHING)
        self.forward = self.module.forward
        self.is_on = True
        vars(self.module)["forward"] = self

    def take(self) -> None:
        self.is_on = False  # should others have wrapped it meanwhile, it only passes on
        own = vars(self.module)
        if own.get("forward") is not self:
            return
        if self.before is _NOTHING:
            del own["forward"]
        else:
            own["forward"] = self.before

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.is_on:
            return self.change(self.forward, *args, **kwargs)
        return self.forward(*args, **kwargs)


class Behind(Switch):
    """Calls ``change(output)`` after the module and the hooks of others there."""

    def put(self) -> None:
        # ``register_forward_hook`` does this in several steps, between which its handle can be lost
        hooks: dict[Any, Any] = self.module._forward_hooks
        hooks[self] = self

    def take(self) -> None:
        hooks: dict[Any, Any] = self.module._forward_hooks
        hooks.pop(self, None)

    def __call__(self, _module: nn.Module, _inputs: object, output: Any) -> None:
        self.change(output)


class _Owner:
    """What is known of one network: who is in it, and what is on.

    Attributes:
        lock: held during a pass, so that no other thread's goes through our switches or finds the
            network on another device.
        on: the switches of the pass that is running.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.on: tuple[Switch, ...] = ()

    def switch_to(self, switches: tuple[Switch, ...]) -> None:
        """Have these on and no others; it may be repeated where an interrupt has cut it short."""
        for switch in reversed(self.on):
            switch.take()
        self.on = switches
        for switch in switches:
            switch.put()

    def clear(self, network: nn.Module) -> None:
        """Remove what a pass that was cut short has left behind."""
        self.switch_to(())
        for switch in _switches_in(network):
            switch.take()


# By network and not by model: models may share one, as those of ``with_parts`` do.
_OWNERS: weakref.WeakKeyDictionary[nn.Module, _Owner] = weakref.WeakKeyDictionary()


def _owner_of(network: nn.Module) -> _Owner:
    return _OWNERS.setdefault(network, _Owner())


def lock_of(network: nn.Module) -> threading.RLock:
    """Return the lock that is held during every pass of a network."""
    return _owner_of(network).lock


def _switches_in(network: nn.Module) -> list[Switch]:
    """Return what of ours is in a network, on top of each other or not."""
    found: list[Switch] = []
    for module in network.modules():
        forward = vars(module).get("forward")
        while isinstance(forward, Around):
            found.append(forward)
            forward = forward.before
        found.extend(hook for hook in module._forward_hooks.values() if isinstance(hook, Behind))
    return found


class Turn:
    """A context in which a network is one thread's, with these switches on and no others of ours.

    Inside a pass of the same thread, that pass's switches are set aside until this one is over.

    Args:
        device: where the network is meanwhile, should it wait elsewhere.
    """

    def __init__(
        self,
        network: nn.Module,
        switches: Sequence[Switch] = (),
        device: torch.device | None = None,
    ) -> None:
        self._network, self._switches, self._device = network, tuple(switches), device
        self._owner = _owner_of(network)
        self._home: torch.device | None = None
        self._nested = self._has_lock()
        self._outer = self._owner.on if self._nested else ()

    def _has_lock(self) -> bool:
        # Python tells it of no lock in public; ``threading.Condition`` asks in the same way.
        return bool(self._owner.lock._is_owned())  # type: ignore[attr-defined]

    def __enter__(self) -> None:
        try:
            if not self._nested:
                self._owner.lock.acquire()
                self._owner.clear(self._network)
            self._visit()
            self._owner.switch_to(self._switches)
        except BaseException:
            self.end()
            raise

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Leave the network as it was found; it may be called again.

        Whoever holds Ctrl-C down interrupts this, too: it goes on until all is done, then raises.
        """
        interrupt: KeyboardInterrupt | None = None
        for _ in range(_ATTEMPTS):
            try:
                self._end()
                break
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def _end(self) -> None:
        if not self._has_lock():
            return  # all is done, or it was interrupted while it waited
        self._owner.switch_to(self._outer)
        if self._home is not None:
            _move(self._network, self._home)
            self._home = None
        if not self._nested:
            self._owner.lock.release()

    def _visit(self) -> None:
        if self._device is None:
            return
        here = next(self._network.parameters()).device
        if here != self._device:
            self._home = here
            _move(self._network, self._device)


def _move(network: nn.Module, device: torch.device) -> None:
    # Not ``network.to``: diffusers would log that it may not suit every model.
    nn.Module.to(network, device)


def run(
    network: nn.Module,
    switches: Sequence[Switch],
    work: Callable[[], T],
    *,
    device: torch.device | None = None,
) -> T:
    """Return ``work()``, a pass of a network, done as in ``Turn``.

    Whatever ends it, the network is as before: an interrupt inside ``Turn``, too.
    """
    turn = Turn(network, switches, device)
    try:
        with turn:
            return work()
    except BaseException:
        turn.end()
        raise


@contextmanager
def switched_on(switches: Sequence[Switch]) -> Iterator[None]:
    """Switch these on, beside others, for calls of a network that are not passes of a model.

    A pass of a model that shares the network removes them.
    """
    try:
        for switch in switches:
            switch.put()
        yield
    finally:
        for switch in reversed(switches):
            switch.take()
