"""Track instances through a video: python examples/track_video.py model.onnx street.mp4 tracked.mp4

supervision's trackers are in a separate package: pip install supervision trackers.
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter

import supervision as sv
from trackers import ByteTrackTracker

from condinst_deploy import Predictor

parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
parser.add_argument("model", help="checkpoint, .onnx or .engine")
parser.add_argument("source", help="video file")
parser.add_argument("target", help="video file to write")
arguments = parser.parse_args()

# lower than the tracker's defaults: CondInst multiplies class probability and centerness
tracker = ByteTrackTracker(track_activation_threshold=0.4, high_conf_det_threshold=0.4)
annotator = sv.MaskAnnotator(color_lookup=sv.ColorLookup.TRACK)
frames = (frame[..., ::-1].copy() for frame in sv.get_video_frames_generator(arguments.source))  # BGR -> RGB
video = sv.VideoInfo.from_video_path(arguments.source)
with Predictor(arguments.model, score_threshold=0.3) as predictor, sv.VideoSink(arguments.target, video) as sink:
    for prediction in predictor.stream(frames):
        if prediction.detections is None or prediction.image is None:
            continue
        tracked = tracker.update(prediction.detections.to_supervision())
        ids = [] if tracked.tracker_id is None else tracked.tracker_id.tolist()
        print(prediction.name, sorted(number for number in ids if number >= 0))  # -1: not a track yet
        sink.write_frame(annotator.annotate(prediction.image[..., ::-1].copy(), tracked))
