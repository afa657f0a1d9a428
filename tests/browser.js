({scrolls}) => {
  const page = document.documentElement, found = [];
  document.querySelectorAll("details").forEach(one => one.open = true);
  if (page.scrollWidth > page.clientWidth) found.push(`overflows by ${page.scrollWidth - page.clientWidth} px`);
  for (const one of scrolls ? document.querySelectorAll(".scroll") : [])
    if (one.scrollWidth > one.clientWidth + 1) found.push(`a table overflows: ${one.innerText.split("\n")[0]}`);
  for (const one of document.images) {
    if (!one.hasAttribute("alt")) found.push(`a picture without a text: ${one.src.slice(0, 80)}`);
    if (one.complete && !one.naturalWidth) found.push(`a picture that is not there: ${one.src.slice(0, 80)}`);
  }

  for (const plot of document.querySelectorAll("svg")) {
    const frame = plot.getBoundingClientRect(), words = [...plot.querySelectorAll("text")].filter(one => one.textContent.trim());
    const boxes = words.map(one => [one.textContent.trim(), one.getBoundingClientRect()]);
    for (const [words, box] of boxes)
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1) found.push(`a plot cuts off "${words}"`);
    boxes.forEach(([a, one], at) => boxes.slice(at + 1).forEach(([b, other]) => {
      const across = Math.min(one.right, other.right) - Math.max(one.left, other.left), down = Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top);
      if (across > 2 && down > one.height / 3) found.push(`a plot writes "${a}" over "${b}"`);
    }));
  }

  const channels = colour => { const all = colour.match(/[\d.]+/g).map(Number); return all.length < 4 ? [...all, 1] : all; };
  const over = (top, under) => [0, 1, 2].map(at => top[at] * top[3] + under[at] * (1 - top[3]));
  const light = colour => {
    const [r, g, b] = colour.map(one => one / 255).map(one => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = one => {
    const layers = [];
    for (; one; one = one.parentElement) layers.push(channels(getComputedStyle(one).backgroundColor));
    const dark = getComputedStyle(page).colorScheme.startsWith("dark");
    return layers.reverse().reduce((under, top) => over(top, under), dark ? [18, 18, 18] : [255, 255, 255]);
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), told = new Set();
  while (texts.nextNode()) {
    const text = texts.currentNode.data.trim(), one = texts.currentNode.parentElement;
    if (!text || !one.checkVisibility({opacityProperty: true, visibilityProperty: true}) || one.closest("svg, script, style, noscript")) continue;
    const style = getComputedStyle(one), under = behind(one), [a, b] = [light(over(channels(style.color), under)), light(under)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), large = parseFloat(style.fontSize) >= 24;
    const told_as = `${style.color} on ${under.map(Math.round)}`;
    if (ratio < (large ? 3 : 4.5) && !told.has(told_as)) {
      told.add(told_as);
      found.push(`contrast ${ratio.toFixed(1)}: "${text.slice(0, 40)}", ${told_as}`);
    }
  }
  return found;
}
