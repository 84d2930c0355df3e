"""Key points of a photo by an exported file, with numpy, OpenCV and ONNX Runtime alone.

python docs/pose_without_torch.py PoseTask.onnx photo.jpg [x y width height]
"""

import json
import sys

import cv2
import numpy as np
import onnxruntime


def main(model: str, photo: str, *box: str) -> None:
    """Print name, x, y and score of each point of the person in a box; without one, of the only person there is."""
    session = onnxruntime.InferenceSession(model)
    about = json.loads(session.get_modelmeta().custom_metadata_map["hrnet"])
    image = cv2.cvtColor(cv2.imread(photo), cv2.COLOR_BGR2RGB)
    height, width = about["image_size"]
    x, y, w, h = map(float, box) if box else (0, 0, image.shape[1] - 1, image.shape[0] - 1)
    recipe = about["preparation"]["init_args"]
    wide = max(w, h * width / height) * recipe["box_padding"]  # the padded box, extended to the input's shape
    extent = np.array([width, height]) - (recipe["crop"] == "unit")  # UDP counts from pixel centre to pixel centre
    scale = extent / (wide, wide * height / width) if recipe["crop"] == "unit" else np.full(2, width / wide)
    shift = extent / 2 - scale * (x + w / 2, y + h / 2)
    crop = cv2.warpAffine(image, np.column_stack([np.diag(scale), shift]), (width, height))
    keypoints, scores = session.run(["keypoints", "scores"], {"image": crop.transpose(2, 0, 1)[None].copy()})
    points = (keypoints[0] - shift) / scale
    for name, point, score in zip(about["skeleton"]["names"], points, scores[0], strict=True):
        print(f"{name} {point[0]:.3f} {point[1]:.3f} {score:.4f}")


main(*sys.argv[1:])
