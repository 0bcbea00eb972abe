// Results as files.

/** Return the shown detections of all images, like detections.json of `ezsd detect`; `threshold` null = calibrated. */
export function asJson(images, names, least, threshold) {
  return {
    vocabulary: names,
    threshold,
    images: images.map(({ result }) => ({ ...result, detections: above(result, least) })),
  };
}

/** Return the shown detections of all images as COCO: boxes are [x, y, width, height], with a score. */
export function asCoco(images, names, least) {
  const coco = {
    images: images.map(({ result }, place) => ({
      id: place + 1, file_name: result.image, width: result.width, height: result.height,
    })),
    categories: names.map((name, place) => ({ id: place + 1, name })),
    annotations: [],
  };
  images.forEach(({ result }, place) => {
    for (const { name, score, box: [x1, y1, x2, y2], mask } of above(result, least)) {
      const [width, height] = [round(x2 - x1), round(y2 - y1)];
      coco.annotations.push({
        id: coco.annotations.length + 1, image_id: place + 1, category_id: names.indexOf(name) + 1,
        bbox: [x1, y1, width, height], area: round(width * height), iscrowd: 0, score, ...(mask && { segmentation: mask }),
      });
    }
  });
  return coco;
}

/** Return the detections with at least the score `least(name)`, with the best name of each object that has it. */
export function above(result, least) {
  const shown = result.detections.flatMap((found) => {
    const enough = [found, ...(found.other_names ?? [])].filter(({ name, score }) => score >= least(name));
    const [best, ...others] = enough.map(({ name, score }) => ({ name, score }));
    const { other_names: _, ...own } = found;
    return best ? [{ ...own, ...best, ...(others.length && { other_names: others }) }] : [];
  });
  return shown.sort((a, b) => b.score - a.score);
}

export function save(content, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(content, null, 2)], { type: "application/json" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const round = (value) => Math.round(value * 100) / 100;
