"""The lines of a text file of events, parsed by numba: decimal numbers to integers, without a float in between."""

from __future__ import annotations

import numpy as np
from numba import njit

from spiketrack.recordings.recording import TIME_LIMIT_US
from spiketrack.recordings.text_layout import MAX_LINE_BYTES

FAULTS = ("bad_line", "bad_time", "off_sensor", "bad_polarity")
_BAD_LINE, _BAD_TIME, _OFF_SENSOR, _BAD_POLARITY, _NO_FAULT, _NO_EVENT = range(6)
ROLES = "_txyp"
_IGNORED, _T, _X, _Y, _P = range(5)
_WHOLE, _ROUNDED, _NO_NUMBER = range(3)
_DIGITS = 19  # so many decimal digits fit into 64 bits
_POWERS = np.array([10**i for i in range(_DIGITS + 1)], np.uint64)
_MOST = np.uint64(2**63 - 1)
_TEN = np.uint64(10)
_ONE = np.uintp(1)
_SAFE_DIGITS = 18  # with them, a sign and a point no number leaves int64


@njit(cache=True, nogil=True)
def _decimal(text, i, shift):
    """The decimal number at i (behind its sign) times 10 ** shift, rounded to the nearest whole number, ties to even.

    Returns where it ends, the number and _WHOLE, _ROUNDED or _NO_NUMBER (also for more than int64 holds).
    """
    mantissa, exponent, kept = np.uint64(0), shift, 0
    some, lost, point = False, False, False  # lost: digits other than 0 beyond the first _DIGITS
    while True:
        digit = np.int64(text[i]) - 48
        if 0 <= digit <= 9:
            some = True
            if kept < _DIGITS:
                mantissa = mantissa * _TEN + np.uint64(digit)
                kept += mantissa > 0
                exponent -= point
            else:
                lost |= digit > 0
                exponent += not point
        elif digit == -2 and not point:  # a point
            point = True
        else:
            break
        i += 1
    if not some:
        return i, np.int64(0), _NO_NUMBER
    if text[i] | 32 == 101:  # an e
        i += 1
        down = text[i] == 45
        if down or text[i] == 43:
            i += 1
        power, first = 0, i
        while 48 <= text[i] <= 57:
            power = min(power * 10 + np.int64(text[i]) - 48, 1_000_000)
            i += 1
        if i == first:
            return i, np.int64(0), _NO_NUMBER
        exponent += -power if down else power
    if mantissa == 0:
        return i, np.int64(0), _WHOLE
    if exponent >= 0:
        if lost or exponent >= _DIGITS or mantissa > _MOST // _POWERS[exponent]:
            return i, np.int64(0), _NO_NUMBER
        return i, np.int64(mantissa * _POWERS[exponent]), _WHOLE
    if exponent < -_DIGITS:
        return i, np.int64(0), _ROUNDED  # less than 10 ** 19 / 10 ** 20, half of which is more
    unit = _POWERS[-exponent]
    quotient = mantissa // unit
    rest = mantissa - quotient * unit
    half = unit // np.uint64(2)
    if rest > half or (rest == half and (lost or quotient % np.uint64(2) == 1)):
        quotient += np.uint64(1)
    if quotient > _MOST:
        return i, np.int64(0), _NO_NUMBER
    return i, np.int64(quotient), _ROUNDED if rest > 0 or lost else _WHOLE


@njit(cache=True, nogil=True)
def _number(text, i, shift):
    """As _decimal, with a sign; short whole numbers on a short way."""
    negative = text[i] == 45
    if negative or text[i] == 43:
        i += 1
    first, value = i, np.int64(0)
    digit = np.int64(text[i]) - 48
    while 0 <= digit <= 9:
        value = value * 10 + digit
        i += 1
        digit = np.int64(text[i]) - 48
    kind = _WHOLE
    # neither a point (46) nor e (101) nor E (69) follows, and the value has not wrapped
    if shift != 0 or i == first or i - first >= _DIGITS or digit == -2 or digit == 53 or digit == 21:
        i, value, kind = _decimal(text, first, shift)
    return i, -value if negative else value, kind


@njit(cache=True, nogil=True)
def _word(text, i):
    """Where the word at i ends and its polarity: true and on are 1, false and off 0, others -2; any case."""
    size = 0
    while 65 <= text[i + size] & 0xDF <= 90 and size < 6:
        size += 1
    a, b, c = text[i] | 32, text[i + min(size, 1)] | 32, text[i + min(size, 2)] | 32
    d, e = text[i + min(size, 3)] | 32, text[i + min(size, 4)] | 32
    if size == 2 and a == 111 and b == 110:
        return i + size, 1
    if size == 3 and a == 111 and b == 102 and c == 102:
        return i + size, 0
    if size == 4 and a == 116 and b == 114 and c == 117 and d == 101:
        return i + size, 1
    if size == 5 and a == 102 and b == 97 and c == 108 and d == 115 and e == 101:
        return i + size, 0
    return i, -2


@njit(cache=True, nogil=True)
def _line(text, i, roles, shift, event):
    """Parse the line at i, which is neither blank nor a comment, into event: (5,) int64 by role.

    Returns an index within the line and whether it has exactly the columns of roles.
    """
    for k in range(len(roles)):
        role = roles[k]
        if role == _IGNORED:
            first = i
            while text[i] > 32 and text[i] != 44 and text[i] != 59:
                i += 1
            if i == first:
                return i, False
        elif role == _P and text[i] >= 65:
            i, polarity = _word(text, i)
            if polarity == -2:
                return i, False
            event[_P] = polarity
        else:
            i, value, kind = _number(text, i, shift if role == _T else 0)
            if kind == _NO_NUMBER or (kind == _ROUNDED and role != _T):
                return i, False
            event[role] = value
        first = i
        while text[i] == 32 or text[i] == 9 or text[i] == 13:
            i += 1
        if text[i] == 44 or text[i] == 59:  # , or ;
            i += 1
            while text[i] == 32 or text[i] == 9 or text[i] == 13:
                i += 1
        elif i == first and text[i] != 10:
            return i, False
        if text[i] == 10:
            return i, k == len(roles) - 1
    return i, False


@njit(cache=True, nogil=True)
def _plain_line(text, i, roles, shift, event):
    """As _line for the most frequent lines: decimal digits with one separator between two numbers, and an end.

    i: unsigned, so that no index is looked at twice. Returns the index of the end, or i where the line is not plain.
    """
    at, last = i, len(roles) - 1
    for k in range(len(roles)):
        role = roles[k]
        negative = text[at] == 45
        if negative:
            at += _ONE
        first, value = at, np.int64(0)
        digit = np.int64(text[at]) - 48
        while 0 <= digit <= 9:
            value = value * 10 + digit
            at += _ONE
            digit = np.int64(text[at]) - 48
        if at == first:
            return i
        if role == _T and shift != 0:
            places = shift
            if digit == -2:  # a point
                at += _ONE
                digit = np.int64(text[at]) - 48
                while 0 <= digit <= 9:
                    value = value * 10 + digit
                    places -= 1
                    at += _ONE
                    digit = np.int64(text[at]) - 48
            if places < 0 or np.int64(at - first) + places > _SAFE_DIGITS:
                return i
            value *= np.int64(_POWERS[places])
        elif np.int64(at - first) > _SAFE_DIGITS:
            return i
        event[role] = -value if negative else value
        byte = text[at]
        if k == last:
            if byte == 13:
                at += _ONE
            return at if text[at] == 10 else i
        if byte != 44 and byte != 32 and byte != 9 and byte != 59:
            return i
        at += _ONE
    return i


@njit(cache=True, nogil=True)
def parse_lines(text, columns, roles, shift, sensor, faults):
    """text: (B,) uint8, whole lines, each with its end. columns: (t, x, y, p), written from index 0 on, long enough.

    roles: for each column of the file its index in ROLES. shift: t times 10 ** shift is in us. sensor: (width,
    height). faults: (len(FAULTS), 2) int64 counts and the index of the first line, updated. Returns the number of
    events, of lines, and whether the time never falls.
    """
    t, x, y, p = columns
    event = np.zeros(5, np.int64)
    n = lines = 0
    i = np.uintp(0)
    rises = True
    while i < np.uintp(len(text)):
        begin, fault = i, _NO_EVENT
        i = _plain_line(text, i, roles, shift, event)
        whole = i != begin
        if not whole:
            while text[i] == 32 or text[i] == 9 or text[i] == 13:
                i += _ONE
        if whole or (text[i] != 10 and text[i] != 35 and text[i] != 37):  # an end, # or %
            if not whole:
                stop, whole = _line(text, np.int64(i), roles, shift, event)
                i = np.uintp(stop)
            if not whole:
                fault = _BAD_LINE
            elif abs(event[_T]) > TIME_LIMIT_US:
                fault = _BAD_TIME
            elif not (0 <= event[_X] < sensor[0] and 0 <= event[_Y] < sensor[1]):
                fault = _OFF_SENSOR
            elif abs(event[_P]) > 1:
                fault = _BAD_POLARITY
            else:
                fault = _NO_FAULT
        while text[i] != 10:
            i += _ONE
        if np.int64(i - begin) > MAX_LINE_BYTES:
            fault = _BAD_LINE
        if fault == _NO_FAULT:
            t[n], x[n], y[n], p[n] = event[_T], event[_X], event[_Y], event[_P] == 1
            rises &= n == 0 or t[n] >= t[n - 1]
            n += 1
        elif fault != _NO_EVENT:
            if faults[fault, 0] == 0:
                faults[fault, 1] = lines
            faults[fault, 0] += 1
        lines += 1
        i += _ONE
    return n, lines, rises
