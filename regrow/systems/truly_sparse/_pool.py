"""WorkerPool: processes that answer orders; none outlives it, and none dies unnoticed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from types import TracebackType
from typing import Any, NoReturn, final

import torch.multiprocessing as mp
from torch import nn

from regrow.errors import SparsityError
from regrow.systems.truly_sparse._mailbox import Mailbox
from regrow.systems.truly_sparse._recipe import Loss, Recipe
from regrow.systems.truly_sparse._samples import Samples, check_outputs
from regrow.systems.truly_sparse._worker import Failure, Job, run_worker

SECONDS_TO_END = 10.0


class WorkerError(RuntimeError):
    """A worker process raised an error, or ended; the message has its traceback or exit code."""


@final
class WorkerPool:
    """Worker processes, each with its share of the samples; a context manager.

    They are started by "spawn": a script that makes one needs ``if __name__ == "__main__":``.
    Leaving the context ends them all, whatever happened; they end by themselves, too, where the
    parent is gone.

    Args:
        model: Copied to each.
        samples: Shared among them: worker k gets every ``n_workers``-th sample from number k on.
        n_workers: How many, at least 1.
        recipe: Learning rate and the rest.
        loss: A function of a module, which can be pickled.
        seed: Of the whole training.
        n_threads: Threads of each.

    Raises:
        SparsityError: There are more workers than samples, or the model cannot be copied.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: Samples,
        *,
        n_workers: int,
        recipe: Recipe,
        loss: Loss,
        seed: int,
        n_threads: int,
    ) -> None:
        if n_workers > len(samples):
            raise SparsityError(
                f"n_workers={n_workers} need as many samples at least; there are {len(samples)}"
            )
        shards = [samples.shard(k, n_workers) for k in range(n_workers)]
        self.n_batches = [-(-len(shard) // recipe.batch_size) for shard in shards]
        self.boxes = [Mailbox.of(model) for _ in range(n_workers)]
        _check_sendable(model, loss)
        check_outputs(model, samples, loss)
        context = mp.get_context("spawn")
        self._connections: list[Connection] = []
        self._processes: list[Any] = []
        try:
            for rank, shard in enumerate(shards):
                mine, its = context.Pipe()
                own = copy.deepcopy(model)  # (what is sent as such is shared)
                job = Job(rank, own, shard, recipe, loss, seed, self.boxes[rank], n_threads)
                process = context.Process(target=run_worker, args=(its, job), daemon=True)
                self._connections.append(mine)
                self._processes.append(process)
                process.start()
                its.close()
            for _ in range(n_workers):
                self.receive()
        except BaseException:
            self._end()
            raise

    def __len__(self) -> int:
        return len(self._processes)

    def send(self, rank: int, order: object) -> None:
        """Give a worker an order; its mailbox is the worker's until the answer has come."""
        try:
            self._connections[rank].send(order)
        except OSError:
            self._raise_for(rank)

    def receive(self) -> tuple[int, Any]:
        """The next answer of any worker, and whose it is.

        Raises:
            WorkerError: A worker failed, or ended.
        """
        ranks: dict[Any, int] = {c: rank for rank, c in enumerate(self._connections)}
        ranks |= {p.sentinel: rank for rank, p in enumerate(self._processes)}
        ready = wait(list(ranks))
        # Messages first: a worker that failed has said why before it ended.
        ready.sort(key=lambda one: not isinstance(one, Connection))
        rank = ranks[ready[0]]
        if isinstance(ready[0], Connection):
            return rank, self._answer(rank)
        return self._raise_for(rank)

    def receive_all(self) -> Iterator[tuple[int, Any]]:
        """One answer of every worker, as they come."""
        for _ in range(len(self)):
            yield self.receive()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._end()

    def _answer(self, rank: int) -> Any:  # noqa: ANN401
        try:
            answer = self._connections[rank].recv()
        except (EOFError, OSError):
            self._raise_ended(rank)
        if isinstance(answer, Failure):
            raise WorkerError(f"worker {rank} failed:\n{answer.traceback}")
        return answer

    def _raise_for(self, rank: int) -> NoReturn:
        """Raise for a worker that cannot be spoken to: by what it said last, if it did."""
        if self._connections[rank].poll():
            self._answer(rank)
        self._raise_ended(rank)

    def _raise_ended(self, rank: int) -> NoReturn:
        process = self._processes[rank]
        process.join(SECONDS_TO_END)
        raise WorkerError(
            f"worker {rank} ended with exit code {process.exitcode}"
            + ("; -9 is often a lack of memory" if process.exitcode == -9 else "")
        )

    def _end(self) -> None:
        # They hold nothing that is worth a goodbye, and Python takes seconds to leave torch.
        started = [process for process in self._processes if process.pid is not None]
        self._processes = []
        for process in started:
            process.terminate()
        for process in started:
            process.join(SECONDS_TO_END)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
        for connection in self._connections:
            connection.close()


def _check_sendable(model: nn.Module, loss: Loss) -> None:
    try:
        ForkingPickler.dumps((copy.deepcopy(model), loss))
    except Exception as error:
        raise SparsityError(
            f"model and loss must be such that they can be sent to another process: {error}; "
            "use functions and classes of modules, and a model without an updater"
        ) from error
