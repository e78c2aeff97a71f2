"""What can go wrong, by what the reader can do about it."""

from __future__ import annotations


class DevclusterError(Exception):
    """Base of every error this tool raises on purpose; the command line prints it plainly."""


class HostUnfitError(DevclusterError):
    """This host cannot run the profile at all: wrong system, no root, no Go, a busy address."""


class BuildError(DevclusterError):
    """A binary or an image could not be built."""


class StartError(DevclusterError):
    """A component did not become ready; the message ends with the last lines of its log."""


class StateError(DevclusterError):
    """The record of a cluster is unreadable, or does not fit what was asked."""


class CommandError(DevclusterError):
    """A host command (ip, iptables, buildah, ...) failed."""
