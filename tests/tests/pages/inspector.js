// Runs in a page around the pages that are looked at, each in a frame of each width.
const inspect = (frame) => {
  const inside = frame.contentDocument, view = frame.contentWindow, root = inside.documentElement;
  const wrong = [], all = [...inside.body.querySelectorAll("*")];
  const named = (element) => `${element.tagName} ${element.className.baseVal ?? element.className} "${element.textContent.trim().slice(0, 40)}"`;
  if (root.scrollWidth > root.clientWidth) {
    const out = all.filter((e) => e.getBoundingClientRect().right > root.clientWidth + 1 && !e.closest(".frame, pre"));
    wrong.push(`too wide: ${root.scrollWidth} of ${root.clientWidth}: ${out.slice(0, 3).map(named)}`);
  }
  for (const link of inside.querySelectorAll("a[href]")) {
    const to = link.getAttribute("href");
    if (!to.startsWith("#") || !inside.getElementById(to.slice(1))) wrong.push(`${to} leads nowhere`);
  }
  const ids = all.map((e) => e.id).filter((id) => id);
  for (const id of new Set(ids)) if (ids.filter((i) => i === id).length > 1) wrong.push(`${id} is named twice`);
  for (const loaded of view.performance.getEntriesByType("resource")) wrong.push(`loads ${loaded.name}`);

  // Contrast, by the rule of WCAG: 4.5 to 1.
  const channels = (color) => color.match(/[\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = channels(color).map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = view.getComputedStyle(e).backgroundColor;
      if ((channels(color)[3] ?? 1) > 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  let looked = 0;
  for (const element of all) {
    const says = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!says || !element.checkVisibility() || ["title", "desc", "script"].includes(element.tagName.toLowerCase())) continue;
    looked += 1;
    const style = view.getComputedStyle(element);
    const ink = element instanceof view.SVGElement ? style.fill : style.color;
    const [a, b] = [light(ink), light(ground(element))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) wrong.push(`contrast ${contrast.toFixed(1)}: ${named(element)} ${ink} on ${ground(element)}`);
  }

  for (const svg of inside.querySelectorAll("svg")) {
    const texts = [...svg.querySelectorAll("text")].map((t) => [t.textContent, t.getBBox()]).filter(([, box]) => box.width);
    for (const [i, [text, box]] of texts.entries()) {
      const { width, height } = svg.viewBox.baseVal;
      if (box.x < -1 || box.x + box.width > width + 1 || box.y + box.height > height + 4) wrong.push(`"${text}" leaves its picture`);
      for (const [other, at] of texts.slice(i + 1)) {
        const apart = box.x + box.width <= at.x + 1 || at.x + at.width <= box.x + 1 || box.y + box.height <= at.y + 4 || at.y + at.height <= box.y + 4;
        if (!apart) wrong.push(`"${text}" lies on "${other}"`);
      }
    }
  }
  return { wrong, looked, dark: view.matchMedia("(prefers-color-scheme: dark)").matches };
};

(async () => {
  const found = [];
  for (const [what, page] of pages) {
    for (const width of widths) {
      const frame = document.createElement("iframe");
      frame.style = `width: ${width}px; height: 800px; border: 0`;
      const loaded = new Promise((done) => { frame.onload = done; });
      frame.srcdoc = page;
      document.body.append(frame);
      await loaded;
      found.push({ what: `${what}, ${width} px`, ...inspect(frame) });
      frame.remove();
    }
  }
  const report = document.createElement("pre");
  report.id = "report";
  report.textContent = JSON.stringify(found);
  document.body.append(report);
})();
