"""EvoPress: evolutionary search of a sparsity or bits for every linear, of blocks or of attentions and MLPs to drop."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

from torch import Tensor

from unicuco_plugin.errors import RequestError
from unicuco_plugin.levels.exchange import Stitching
from unicuco_plugin.levels.store import Levels
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.blocks.needed import check_needed
from unicuco_plugin.models.blocks.sublayers import check_silence, sublayer_names, sublayer_params
from unicuco_plugin.objectives.evaluator import NO_ATTENTION, NO_MLP, BlockEvaluator
from unicuco_plugin.objectives.levelled import LevelEvaluator
from unicuco_plugin.objectives.units import UnitsEvaluator
from unicuco_plugin.peers.bit_genomes import BitProblem
from unicuco_plugin.peers.bits import bits_problem
from unicuco_plugin.peers.blocks import blocks_to_drop, depth_space
from unicuco_plugin.peers.drop_genomes import DropProblem
from unicuco_plugin.peers.evolution import Evolution, EvolutionSettings, Found, Genome, Problem
from unicuco_plugin.peers.level_genomes import Evaluators, LevelProblem, level_step, uniform_counts
from unicuco_plugin.peers.peer import OPTIONAL, PeerRequest, PeerResult, Setting, choose_space, room_for
from unicuco_plugin.peers.rounds import Rounds
from unicuco_plugin.scores.budget import check_budget
from unicuco_plugin.texts.calibration import calibration_hash
from unicuco_plugin.traits import traits_of

__all__ = ["EvoPress", "bit_settings", "drop_settings", "level_settings"]


@dataclass(frozen=True)
class EvoPress:
    """The (1 + lambda) search of EvoPress, with its official or its "super-fast" settings.

    Attributes:
        settings: Instead of those, for tests and studies.

    Source:
        Sieberling et al. 2025, "EvoPress: Accurate Dynamic Model Compression via Evolutionary Search".
    """

    settings: EvolutionSettings | None = None
    spaces: ClassVar[tuple[str, ...]] = ("sparsity", "depth", "sublayer", "precision")
    takes: ClassVar[frozenset[str]] = OPTIONAL
    serves_all: ClassVar[bool] = False

    def __call__(self, request: PeerRequest) -> PeerResult:
        """Search; see :class:`Peer`. A journal makes it resume, with more generations or tokens than before too.

        Raises:
            RequestError: Also if sparsity is asked for without a level database, or blocks differ in size.
            CalibrationError: If the windows hold fewer tokens than the settings' largest minibatch.
            JournalError: If the journal is in use, damaged, or belongs to other arguments.
        """
        space = choose_space(self, request)
        if traits_of(space).stores:
            return self._bits(request)
        return self._levels(request) if traits_of(space).zeroes else self._drops(request, space)

    def _bits(self, request: PeerRequest) -> PeerResult:
        bits, room = bits_problem(request), room_for(request)

        def measure(plans: Sequence[Mapping[str, str]], windows: Tensor) -> list[float]:
            evaluator = UnitsEvaluator(
                request.decoder, bits.space.name, windows, levels=bits.levels, batch_windows=request.batch_windows
            )
            return [found.value for found in room.measure(evaluator.evaluate, plans)]

        settings = self.settings or bit_settings(request.setting)
        problem = BitProblem(bits.space, request.sparsity, measure)
        found = _evolve(request, problem, settings, {"space": bits.space.name, "levels": bits.levels.record.identity})
        return bits.result(problem.row(found.genome), found.tokens, found.seconds, _details(found, settings))

    def _levels(self, request: PeerRequest) -> PeerResult:
        if not isinstance(request.levels, Levels):
            raise RequestError("evopress measures its candidates on a level database: give levels, got None")
        check_budget(request.sparsity)
        sizes = request.levels.sizes
        evaluator = LevelEvaluator(
            Stitching(request.decoder, request.levels), request.windows[:1], batch_windows=request.batch_windows
        )
        step = level_step(request.decoder.config.hidden_size)
        problem = LevelProblem(
            sizes, uniform_counts(sizes, request.sparsity), step, Evaluators(evaluator, room_for(request))
        )
        levels = request.levels.record.model_dump(mode="json", include={"settings", "calibration"})
        settings = self.settings or level_settings(request.setting)
        found = _evolve(request, problem, settings, {"space": "sparsity", "step": step, "levels": levels})
        counts = problem.plan(found.genome)
        units = {name: count / sizes[name] for name, count in counts.items() if count}
        sparsity = sum(counts.values()) / sum(sizes.values())
        details = _details(found, settings) | {"step": step, "levels": dict(zip(sizes, found.genome, strict=True))}
        return PeerResult("sparsity", units, sparsity, found.tokens, found.seconds, details)

    def _drops(self, request: PeerRequest, space: str) -> PeerResult:
        decoder = request.decoder
        count, removed = len(decoder.blocks), blocks_to_drop(len(decoder.blocks), request.sparsity)
        whole = not traits_of(space).halves
        if whole:
            kinds: tuple[tuple[str, ...], ...] = (tuple(decoder.block_names),)
            sizes = dict(zip(decoder.block_names, depth_space(decoder).unit_params, strict=True))
        else:
            kinds, sizes = sublayer_names(decoder), sublayer_params(decoder)
        if any(len({sizes[name] for name in kind}) > 1 for kind in kinds):
            raise RequestError(
                "evopress removes a number of blocks, which is a share of the parameters only where all have one size, "
                f"and those of this model differ; take another peer, such as greedy, got sparsity {request.sparsity}"
            )
        if not whole:
            check_silence(decoder)

        room = room_for(request)

        def blocks(genomes: Sequence[Genome], windows: Tensor) -> list[float]:
            drops = [[index for index, gone in enumerate(genome) if gone] for genome in genomes]
            evaluator = BlockEvaluator(decoder, windows, batch_windows=request.batch_windows)
            return [found.value for found in room.measure(lambda part, _: evaluator.evaluate(part), drops)]

        def halves(genomes: Sequence[Genome], windows: Tensor) -> list[float]:
            # All attentions, then all MLPs.
            parts = [
                [NO_ATTENTION * a + NO_MLP * m for a, m in zip(genome[:count], genome[count:], strict=True)]
                for genome in genomes
            ]
            evaluator = BlockEvaluator(decoder, windows, batch_windows=request.batch_windows)
            return [found.value for found in room.measure(evaluator.evaluate_parts, parts)]

        problem = DropProblem(count, 1 if whole else 2, removed, blocks if whole else halves)
        settings = self.settings or drop_settings(request.setting, count, removed)
        found = _evolve(request, problem, settings, {"space": space})
        names = [name for kind in kinds for name in kind]
        units = {name: 1.0 for name, gone in zip(names, found.genome, strict=True) if gone}
        blocks_gone = [block for block in range(count) if all(found.genome[block::count])]
        check_needed(decoder, blocks_gone)
        sparsity = sum(sizes[name] for name in units) / sum(sizes.values())
        return PeerResult(space, units, sparsity, found.tokens, found.seconds, _details(found, settings))


def level_settings(setting: Setting) -> EvolutionSettings:
    """Settings of a search of sparsities, from the public scripts; super-fast: 16 offspring on 512 and 8 192 tokens.

    What super-fast leaves after its first stage is not said; two here, as in the official search of blocks.
    """
    if setting == "official":
        return EvolutionSettings(400, 64, (8, 2, 1), (2048, 16384, 65536))
    return EvolutionSettings(400, 16, (2, 1), (512, 8192))


def bit_settings(setting: Setting) -> EvolutionSettings:
    """Settings of a search of bits, from the public scripts; super-fast: as :func:`level_settings`.

    How many random genomes a budget between two bit-widths starts from is not said; as many as in the search of blocks.
    """
    if setting == "official":
        return EvolutionSettings(150, 128, (16, 4, 1), (2048, 16384, 131072), 64, 2048)
    return EvolutionSettings(150, 16, (2, 1), (512, 8192), 64, 512)


def drop_settings(setting: Setting, count: int, removed: int) -> EvolutionSettings:
    """Settings of a search of blocks or sub-layers: ``int(k (n - k) / 1.5)`` generations, 64 random genomes first."""
    generations = int(removed * (count - removed) / 1.5)
    if setting == "official":
        return EvolutionSettings(generations, 32, (2, 1), (2048, 32768), 64, 2048)
    return EvolutionSettings(generations, 16, (2, 1), (512, 8192), 64, 512)


def _evolve(request: PeerRequest, problem: Problem, settings: EvolutionSettings, identity: dict[str, object]) -> Found:
    header: dict[str, object] = {}
    if request.journal is not None:
        # A longer search goes on from a shorter one, so neither generations nor the token budget are in it.
        how = {name: value for name, value in asdict(settings).items() if name != "generations"}
        header = {
            "method": "evopress",
            "model": str(fingerprint(request.decoder.model)),
            "windows": calibration_hash(request.windows),
            "sparsity": request.sparsity,
            "seed": request.seed,
            "settings": how,
            **identity,
        }
    evolution = Evolution(problem, settings, request.windows, request.seed, request.token_budget, request.progress)
    with Rounds(request.journal, header) as rounds:
        return evolution.run(rounds)


def _details(found: Found, settings: EvolutionSettings) -> dict[str, object]:
    fitness = None if found.fitness == float("inf") else found.fitness
    done = {"generations": found.generations, "first_seconds": found.first_seconds}
    return {**done, "divergence": fitness, "settings": asdict(settings)}
