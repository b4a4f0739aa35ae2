"""The directory OUTPUT.squeezing: the last round that was kept, and the record, while it lasts.

    squeeze.json    the record
    round-N         the last model that was kept, a compressed model's directory

A killed squeeze goes on from there. At its end the model moves to the output.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec
from transformers import PreTrainedModel

from edgefuse.artifact.record import RECORD as COMPRESSION
from edgefuse.artifact.record import CompressionRecord
from edgefuse.artifact.save import save_compressed
from edgefuse.compression.chains.records import record_of_squeezed
from edgefuse.hub.sentence_modules import copy_sentence_modules
from edgefuse.hub.source import ModelSource
from edgefuse.hub.tokenizer import ModelTokenizer
from edgefuse.squeezing.record import RECORD, Round, SqueezeRecord, read_squeeze, write_squeeze
from edgefuse_devices.errors import OutputError, RunError
from edgefuse_runtime.files.output import check_replaceable, new_directory


@dataclass(frozen=True)
class Workspace:
    """Where a squeeze keeps what it has reached.

    Attributes:
        output: Directory of the compressed model to make.
        path: Directory of the work.
        overwrite: Whether the output, and an earlier attempt, are replaced.
    """

    output: Path
    path: Path
    overwrite: bool

    @classmethod
    def beside(cls, output: Path, *, overwrite: bool) -> "Workspace":
        """The workspace of an output, beside it."""
        output = Path(os.path.realpath(output))
        return cls(output, output.with_name(f"{output.name}.squeezing"), overwrite)

    def begin(self, begun: SqueezeRecord) -> SqueezeRecord:
        """Make the directory.

        Args:
            begun: The record, without rounds.

        Raises:
            OutputError: The output or an earlier attempt is there, and is not to be replaced.
        """
        check_replaceable(self.output, COMPRESSION, overwrite=self.overwrite)
        if (self.path / RECORD).is_file():
            if not self.overwrite:
                raise OutputError(
                    f"{self.path} is there already",
                    "Go on with --resume, or begin anew with --overwrite",
                )
            discard(self.path)
        check_replaceable(self.path, RECORD, overwrite=self.overwrite)
        self.path.mkdir(parents=True, exist_ok=True)
        write_squeeze(self.path, begun)
        return begun

    def resume(self, begun: SqueezeRecord) -> SqueezeRecord:
        """Open the directory that is there; the output, where the squeeze has ended.

        Args:
            begun: The record, without rounds, that this command would begin with.

        Raises:
            RunError: There is nothing to resume, or it was begun otherwise.
            OutputError: The output is there and is not to be replaced.
        """
        if (self.path / RECORD).is_file():
            check_replaceable(self.output, COMPRESSION, overwrite=self.overwrite)
            where, what = self.path, "begun with another model, other data or other settings"
        elif (self.output / RECORD).is_file():
            where = self.output
            what = "squeezed from another model, with other data or other settings"
        else:
            raise RunError(
                f"there is no squeeze of {self.output} to go on with", "Begin one without --resume"
            )
        stored = read_squeeze(where)
        if not _begin_alike(stored, begun):
            raise RunError(
                f"{where} was {what}",
                "Give those again, or begin anew without --resume and with --overwrite",
            )
        return stored

    @property
    def has_ended(self) -> bool:
        """Whether the output holds the squeezed model already."""
        return not (self.path / RECORD).is_file()

    def model_of(self, record: SqueezeRecord) -> Path:
        """Directory of the last model that was kept."""
        return self.path / f"round-{record.kept}"

    def save(
        self,
        record: SqueezeRecord,
        reached: Round,
        model: PreTrainedModel,
        tokenizer: ModelTokenizer,
        compression: CompressionRecord,
    ) -> SqueezeRecord:
        """Write a round: its model where it is kept, then the record.

        Args:
            record: The record of the rounds before.
            reached: The round.
            model: The model that it left.
            tokenizer: The model's tokenizer.
            compression: The record of the compression that the model comes from.

        Returns:
            The record with the round.
        """
        after = msgspec.structs.replace(record, rounds=[*record.rounds, reached])
        if reached.kept:
            with new_directory(
                self.model_of(after), marker=COMPRESSION, overwrite=True
            ) as directory:
                save_compressed(directory, model, tokenizer, record_of_squeezed(compression, model))
        write_squeeze(self.path, after)
        if reached.kept and record.rounds:
            shutil.rmtree(self.model_of(record))
        return after

    def finish(self, record: SqueezeRecord, source: ModelSource) -> None:
        """Move the last model that was kept to the output, and clear up.

        Args:
            record: The record of all rounds.
            source: The model that was squeezed.
        """
        with new_directory(self.output, marker=COMPRESSION, overwrite=self.overwrite) as folder:
            shutil.copytree(self.model_of(record), folder, dirs_exist_ok=True)
            copy_sentence_modules(source, folder)
            write_squeeze(folder, record)
        discard(self.path)


def discard(path: Path) -> None:
    """Delete a workspace, under another name: half of one could neither go on nor be replaced."""
    discarded = path.with_name(f".{path.name}.discarded")
    shutil.rmtree(discarded, ignore_errors=True)
    path.rename(discarded)
    shutil.rmtree(discarded)


def _begin_alike(stored: SqueezeRecord, begun: SqueezeRecord) -> bool:
    """Whether two squeezes begin alike, whatever came of them and by whatever version."""
    return stored == msgspec.structs.replace(
        begun, rounds=stored.rounds, edgefuse_version=stored.edgefuse_version
    )
