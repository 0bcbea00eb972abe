// Results as files.

/** Return the detections of all images at a threshold, like detections.json of `ezsd detect`. */
export function asJson(images, names, threshold) {
  return {
    vocabulary: names,
    threshold,
    images: images.map(({ result }) => ({ ...result, detections: above(result, threshold) })),
  };
}

/** Return the detections of all images as COCO: boxes are [x, y, width, height], with a score. */
export function asCoco(images, names, threshold) {
  const coco = {
    images: images.map(({ result }, place) => ({
      id: place + 1, file_name: result.image, width: result.width, height: result.height,
    })),
    categories: names.map((name, place) => ({ id: place + 1, name })),
    annotations: [],
  };
  images.forEach(({ result }, place) => {
    for (const { name, score, box: [x1, y1, x2, y2], mask } of above(result, threshold)) {
      const [width, height] = [round(x2 - x1), round(y2 - y1)];
      coco.annotations.push({
        id: coco.annotations.length + 1, image_id: place + 1, category_id: names.indexOf(name) + 1,
        bbox: [x1, y1, width, height], area: round(width * height), iscrowd: 0, score, ...(mask && { segmentation: mask }),
      });
    }
  });
  return coco;
}

export const above = (result, threshold) => result.detections.filter(({ score }) => score >= threshold);

export function save(content, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(content, null, 2)], { type: "application/json" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const round = (value) => Math.round(value * 100) / 100;
