"""Follow objects through the frames of a video with ByteTrack (package ``trackers``, extra ``video``)."""

from __future__ import annotations

from typing import Any

import numpy as np
import supervision as sv

from ezsd.errors import MissingExtraError
from ezsd.inference.sources import Frame
from ezsd.inference.video import Video
from ezsd.inference.view import Array, scores_of, select

WEAK = 0.5  # detections with at least this fraction of their threshold can continue a track, but not start one
_FPS = 25.0  # of image sequences


class ObjectTracker:
    """Gives objects numbers that stay the same from frame to frame. Each video starts anew.

    Raises:
        MissingExtraError: The package trackers is not installed.
    """

    def __init__(self) -> None:
        try:
            from trackers import ByteTrackTracker
        except ImportError:
            raise MissingExtraError(
                "Tracking requires the package trackers. Install it with: pip install 'ezsd[video]'"
            ) from None
        self._make: Any = ByteTrackTracker
        self._video: Video | None = None
        self._tracker: Any = None

    def update(self, frame: Frame, found: sv.Detections, thresholds: Array) -> sv.Detections:
        """Return the detections of the next frame with ``tracker_id``; -1 = seen once so far.

        Args:
            frame: The frame; those of a video must come in order.
            found: Its detections, down to WEAK times the threshold of their name.
            thresholds: [C], the threshold of each name of the vocabulary.

        Returns:
            The detections above their threshold, and weaker ones that continue a track.
        """
        if self._tracker is None or frame.video != self._video:
            self._video = frame.video
            fps = frame.video.fps if frame.video else _FPS
            self._tracker = self._make(frame_rate=fps, track_activation_threshold=WEAK, high_conf_det_threshold=WEAK)
        scores = scores_of(found)
        limits = thresholds[found.class_id] if len(found) else np.zeros(0)
        # ByteTrack has one threshold for all names: scores are scaled so that each name's threshold becomes WEAK.
        scaled = (WEAK * scores / np.maximum(limits, 1e-9)).clip(max=1.0)
        rows = sv.Detections(xyxy=found.xyxy, confidence=scaled, data={"row": np.arange(len(found))})
        ids = np.full(len(found), -1)
        tracked = self._tracker.update(rows)
        if len(tracked):
            ids[tracked.data["row"]] = tracked.tracker_id
        kept = (scores >= limits) | (ids >= 0)
        result = select(found, kept)
        result.tracker_id = ids[kept].astype(int)
        return result
