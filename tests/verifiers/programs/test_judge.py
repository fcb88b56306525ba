"""Tests that run in another process than the program: what they can ask, as it would be in one."""

from __future__ import annotations

import asyncio

import pytest

from verifiers.programs.judge import fault_found

pytestmark = pytest.mark.usefixtures("sandboxing")

# What a test uses, a program, a change that makes it wrong, and the test.
CASES: dict[str, tuple[str, tuple[str, str], str]] = {
    "a class derived from a list": (
        """
class S(list):
    def add(self, x): self.append(x)
""",
        ("append(x)", "append(x + 1)"),
        """
s = S()
s.add(1)
assert s == [1]
assert isinstance(s, S)
assert len(s)==1 and s[0]==1 and 1 in s
assert list(s)==[1]
""",
    ),
    "a list changed in place": (
        "def f(xs): xs.sort(); return xs",
        ("xs.sort(); return xs", "return sorted(xs)"),
        """
l=[3,1,2]
r = f(l)
assert l==[1,2,3]
assert r is l
""",
    ),
    "functions of the test": (
        "def ap(g, x): return g(x)",
        ("return g(x)", "return x"),
        """
assert ap(lambda x: x+1, 2)==3
assert ap(len, [1,2])==2
assert ap(str, 5)=='5'
""",
    ),
    "generators": (
        """
def gen(n):
    for i in range(n): yield i
""",
        ("yield i", "yield i + 1"),
        """
assert list(gen(3))==[0,1,2]
it=gen(2)
assert next(it)==0
assert sum(gen(4))==6
""",
    ),
    "exceptions of its own": (
        """
class E(ValueError):
    pass
def f(x):
    raise E('bad', x)
""",
        ("E('bad', x)", "E('bad')"),
        """
try:
    f(1)
    assert False
except E as e:
    assert e.args == ('bad', 1)
try:
    f(1)
except ValueError as e:
    pass
""",
    ),
    "a module that the program imports": (
        """
import math
def f(x): return math.sqrt(x)
""",
        ("math.sqrt(x)", "math.sqrt(x) + 1"),
        """
assert math.isclose(f(4), 2)
assert abs(f(9)-3) < 1e-6
""",
    ),
    "a function named like a built-in": (
        "def sum(a,b): return a*b",
        ("a*b", "a+b"),
        "assert sum(10,15)==150",
    ),
    "values of the standard library": (
        """
from fractions import Fraction
from collections import Counter, namedtuple
P=namedtuple('P','x y')
def f(): return Fraction(1,2)
def c(s): return Counter(s)
def p(): return P(1,2)
""",
        ("Fraction(1,2)", "Fraction(1,3)"),
        """
from fractions import Fraction as F
assert f()==F(1,2)
assert c('aab')=={'a':2,'b':1}
assert c('aab').most_common(1)==[('a',2)]
assert p()==(1,2) and p().x==1 and (1,2)==p()
a,b=p()
assert (a,b)==(1,2)
""",
    ),
    "operators between its objects": (
        """
class V:
    def __init__(s,x): s.x=x
    def __add__(s,o): return V(s.x+o.x)
    def __eq__(s,o): return s.x==o.x
""",
        ("s.x+o.x", "s.x"),
        """
assert V(1)+V(2)==V(3)
assert V(1)!=V(2)
v=V(1)
v.x=7
assert v.x==7
""",
    ),
    "what it prints": (
        "def f(): print('hello')",
        ("'hello'", "'hallo'"),
        """
import io, contextlib
b=io.StringIO()
with contextlib.redirect_stdout(b):
    f()
assert b.getvalue()=='hello\\n'
""",
    ),
    "a number of 5,000 digits": (
        "def f(): return 10**5000",
        ("10**5000", "10**5000 + 1"),
        "assert f()==10**5000",
    ),
    "a list that contains itself": (
        """
def f():
    x=[]; x.append(x); return x
""",
        ("x.append(x)", "x.append([])"),
        """
y=f()
assert y[0] is y
""",
    ),
    "tuples in tuples": (
        """
def f(n):
    x=1
    for i in range(n): x=(x,)
    return x
""",
        ("range(n)", "range(1)"),
        "assert f(100)[0][0]",
    ),
    "a context manager": (
        """
class C:
    n=0
    def __enter__(self): self.n+=1; return self
    def __exit__(self,*a): self.n+=1
""",
        ("self.n+=1; return self", "return self"),
        """
with C() as c:
    assert c.n==1
assert c.n==2
""",
    ),
    "iterators of the test": (
        "def total(it): return sum(it)",
        ("sum(it)", "sum(it) + 1"),
        """
assert total(x for x in [1,2,3])==6
assert total(iter([1,2]))==3
""",
    ),
    "several arguments of one kind": (
        "def f(xs): return max(xs, key=lambda t: t[1])",
        ("t[1]", "-t[1]"),
        """
assert f([(1,2),(3,4)])==(3,4)
assert f({(1,9)})==(1,9)
""",
    ),
    "enumerations": (
        """
import asyncio
from enum import Enum, IntEnum
class K(IntEnum):
    A=1
class L(Enum):
    B='b'
def k(): return K.A
def l(): return L.B
""",
        ("A=1", "A=2"),
        (
            "assert k() == K.A == 1 and l() == L.B and l().value == 'b'\n"
            "assert k() + 1 == 2 and 3 - k() == 2 and k() < 5"
        ),
    ),
    "exceptions of the test": (
        """
def apply(fs, x):
    for f in fs: x=f(x)
    return x
""",
        ("x=f(x)", "pass"),
        """
class MyErr(Exception): pass
def bad(x): raise MyErr('q')
try:
    apply([bad], 1)
    assert False
except MyErr as e:
    assert e.args==('q',)
""",
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_test_sees_what_it_would_see_in_one_process(case: str) -> None:
    """And a program that is slightly wrong fails."""
    program, (right, wrong), test = CASES[case]
    assert right in program
    faults = await asyncio.gather(
        fault_found(program, test), fault_found(program.replace(right, wrong), test)
    )
    assert faults[0] == ""
    assert faults[1] != ""


@pytest.mark.parametrize(
    ("program", "test", "fault"),
    [
        ("def f(x): return object()", "assert f(1) + 1", "unsupported operand type(s) for +"),
        ("def f(x): pass", "class C: pass\nf(C())", "cannot be passed to the program"),
        ("import os", "os.getcwd()", "'os' of the program is not passed to a test"),
        ("class E(KeyError): pass\ndef f(): raise E(3)", "f()", "E: 3"),
        ("def f(): return g()", "def g(): return 1\nassert f()", "name 'g' is not defined"),
    ],
)
async def test_what_a_test_cannot_do_is_named(program: str, test: str, fault: str) -> None:
    assert fault in await fault_found(program, test)
