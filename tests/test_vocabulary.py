"""Code and docs use the words of the field: the terms below have a standard word in their place.

``python tests/test_vocabulary.py`` prints the lines that still have them.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# A pattern that is searched in code and prose -> the word to use. Case counts in (?-i:...) alone.
FORBIDDEN = {
    r"\bmend(s|ed|ing)?\b": "hint",
    r"vouch": "declare, support",
    r"entrywise": "supports_flat_records",
    r"postpon": "deferrable, deferred",
    r"resets_rows_alone": "partial_reset_safe",
    r"(?-i:\bEntries\()": "FlatRecord",
    r"StepPlan|_core[./]plan\b": "CompiledSpecs, compile_policy",
    r"\b_inside\b|(?-i:\bInside\()": "InnerEnvInfo",
    r"(?-i:\b(Nest|Flow)\b)": "NestedPipeline, TransformPipeline",
    r"\boutcomes?\b": "result",
    r"(?<!the )\bfollowing\b(?! (row|ones))": "next step, next root",
    r"\b(keep|hold|take)_rows\b": "where_rows",
    r"displaced": "is_stale",
    r"\bsettl(e|es|ed|ing)\b": "finish, flush, resolve, wait",
    r"(?-i:\bMARKS\b)": "header counters",
    r"\blaws?\b": "contract check",
    r"\bsay(s|ing)? whether\b": "return whether",
    r"\bcrews?\b|\bseats?\b|(?-i:\bTeam\b)": "WorkerPool, EnvSlot, EnvGroup",
    r"(?-i:\bExchange\b)|\bdesk\b": "Transport, RequestHandler",
    r"complain": "error report",
    r"(?-i:\b(Job|Facts)\b)": "WorkerConfig, WorkerInfo",
    r"\bslabs?\b": "SharedBatch",
    r"nameless|(?-i:\bHome\b)": "AnonymousFile, RowMemory",
    r"(?-i:\b(Finishing|WholeTrajectories)\b)": "BatchPostprocessor, TrajectoryAssembler",
    r"\blanes?\b": "env column",
    r"\btwins?\b": "copy, target network",
    r"\b(left|leaves?|leaving) behind\b": "dropped",
    r"surprising": "high priority",
    r"\bstrangers?\b": "independent",
    r"\bfloors\b|\bfloor (plan|of)\b|\bground floor\b|\bthe ground\b": "layer, core",
    r"\bhouses?\b": "library",
    r"\banew\b": "again",
    r"\b(nobody|somebody|no one|someone)\b": "name what does it",
    r"\bbeg(in|ins|an|un|inning|innings)\b": "start",
    r"\bstands? (in|on|at|for|beside|under|here|there|alone|still)\b": "is",
    r"\bhand(s|ed|ing)? (out|on|over|to)\b|\bhanded\b": "pass",
    r"\bjourneys?\b|\btravel(s|led|ling)?\b": "is sent, is pickled",
    r"\bdeciding\b": "outermost",
}

# Files that still have some of them, and in how many lines at most; this list only shrinks.
KNOWN = {"torchrl/objectives/td3.py": 1}

PATTERN = re.compile("|".join(FORBIDDEN), re.IGNORECASE)


def files():
    """Return every file that is searched."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    return sorted([*(ROOT / "torchrl").rglob("*.py"), *pages, *(ROOT / "docs").glob("*.py")])


def lines_of(text):
    """Return number, term and text of the lines that have a forbidden term."""
    lines = text.splitlines()
    return [(i, match[0], line) for i, line in enumerate(lines, 1) if (match := PATTERN.search(line))]


def advice(term):
    """Return the word to use in place of a term."""
    return next(word for p, word in FORBIDDEN.items() if re.search(p, term, re.IGNORECASE))


def test_terms_that_have_a_standard_word_are_not_used():
    problems = []
    for path in files():
        name = path.relative_to(ROOT).as_posix()
        found = lines_of(path.read_text())
        if len(found) > KNOWN.get(name, 0):
            problems += [f"{name}:{i}: {term!r}; use {advice(term)}" for i, term, _ in found]
    assert not problems, "\n".join(problems)


def test_planted_terms_are_found():
    text = "It is built anew.\nA workbench.\nThe laws of Crew\nFlowing in a Flow\nthe following\n"
    assert [term for _, term, _ in lines_of(text)] == ["anew", "laws", "Flow"]


if __name__ == "__main__":
    counts = {}
    for path in files():
        name = path.relative_to(ROOT).as_posix()
        if found := lines_of(path.read_text()):
            counts[name] = len(found)
        for i, term, line in found:
            if sys.argv[1:] != ["--counts"]:
                print(f"{name}:{i}: {term}: {line.strip()}")
    if sys.argv[1:] == ["--counts"]:
        print(*(f'    "{name}": {count},' for name, count in counts.items()), sep="\n")
