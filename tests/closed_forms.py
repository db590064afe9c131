"""The worst case of a linear function over a threat model and the box [0, 1]: exact, slow, and independent of inure."""

import numpy as np

from inure.threat import L2, Geometry, Linf


def worst_case(threat: Geometry, w: np.ndarray, x: np.ndarray) -> float:
    """max of w . d over ||d|| <= epsilon and 0 <= x + d <= 1, in float64, for one flat image."""
    w, x = np.asarray(w, np.float64), np.asarray(x, np.float64)
    room = np.where(w > 0, 1 - x, x)
    epsilon = float(threat.epsilon)
    if isinstance(threat, Linf):
        return float(np.abs(w) @ np.minimum(epsilon, room))
    if isinstance(threat, L2):
        return _euclidean(np.abs(w), room, epsilon)
    return _taxicab(np.abs(w), room, epsilon)


def _taxicab(gain: np.ndarray, room: np.ndarray, epsilon: float) -> float:
    """Spend the radius on the coordinates that pay most, each up to its room."""
    total = 0.0
    for i in np.argsort(-gain):
        spent = min(room[i], epsilon)
        total, epsilon = total + gain[i] * spent, epsilon - spent
    return float(total)


def _euclidean(gain: np.ndarray, room: np.ndarray, epsilon: float) -> float:
    """d = min(t * gain, room) with the multiplier t found by bisection, so that ||d|| = epsilon."""
    reachable = np.where(gain > 0, room, 0.0)
    if np.linalg.norm(reachable) <= epsilon:
        return float(gain @ reachable)
    low, high = 0.0, 1.0
    while np.linalg.norm(np.minimum(high * gain, room)) < epsilon:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if np.linalg.norm(np.minimum(middle * gain, room)) < epsilon:
            low = middle
        else:
            high = middle
    return float(gain @ np.minimum(low * gain, room))
