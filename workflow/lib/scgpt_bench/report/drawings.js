// Pictures of one perturbation, as SVG whose text can be searched and whose marks say their numbers under the pointer.

const SIDE = 250; // pixels of a scatter plot
const NAMED = 8; // genes with the largest measured change that are named, and as many with the largest predicted one
const BOX_ROW = 26; // pixels of a gene's boxes
const CELL = 9; // pixels of a column of the heat map
const SHAPES = { // of marks, by the group of a method; a circle for others
  scGPT: 'M0-5.5L5.5 0L0 5.5L-5.5 0Z', 'other model': 'M0-5L5 4H-5Z', 'benchmark control': 'M-4-4H4V4H-4Z',
};
const OPPOSITE = { left: 'right', right: 'left', top: 'bottom', bottom: 'top' };
const html = maker('http://www.w3.org/1999/xhtml');
const svg = maker('http://www.w3.org/2000/svg');
const pointed = new WeakMap(); // heat maps, of figures too: what is under the pointer

// Names become text or attributes, so nothing in them is run.
function maker(space) {
  return (name, attributes = {}, ...children) => {
    const made = document.createElementNS(space, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
}

// Changes are stored in thousandths.
function change(value) {
  return `${value < 0 ? '−' : '+'}${(Math.abs(value) / 1000).toFixed(3)}`;
}

function rounded(value) {
  return value.toFixed(2).replace('-', '−');
}

function short(text, most) {
  return text.length > most ? `${text.slice(0, most - 4)}…${text.slice(-3)}` : text;
}

function largestOf(values) {
  return values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
}

function clamped(value, low, high) {
  return Math.max(low, Math.min(high, value));
}

function measuredOf(from, method) {
  return method.halved ? from.half_b : from.measured;
}

function written(x, y, text, anchor = 'middle', name = '') {
  return svg('text', { x, y, 'text-anchor': anchor, class: name }, text);
}

function ticks(low, high, most) {
  const raw = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= raw) * power;
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, number) => (first + number) * step);
}

function tickText(value) {
  return String(Number((value / 1000).toPrecision(3))).replace('-', '−');
}

function picture(name, width, height, label, ...children) {
  const size = { width, height, viewBox: `0 0 ${width} ${height}` };
  return svg('svg', { ...size, class: name, role: 'img', 'aria-label': label }, ...children);
}

function captionOf(method, ...texts) {
  const swatch = html('span', { class: 'swatch' });
  return html('figcaption', {}, swatch, html('strong', {}, method.name), ...texts);
}

// Panels share their axes. What a method predicts far beyond all that was measured is drawn hollow, at the edge.
function scatters(content, condition, methods) {
  const measured = largestOf(methods.flatMap((at) => measuredOf(condition, content.methods[at])));
  const predicted = largestOf(methods.flatMap((at) => condition.predicted[at]));
  const limit = 1.1 * Math.max(measured, Math.min(predicted, 2 * measured), 1);
  return html('div', { class: 'panels' }, ...methods.map((at) => scatter(content, condition, at, limit)));
}

function scatter(content, condition, at, limit) {
  const method = content.methods[at];
  const [measured, predicted] = [measuredOf(condition, method), condition.predicted[at]];
  const place = (value) => (SIDE / 2) * (1 + clamped(value / limit, -1, 1));
  const [x, y] = [measured.map(place), predicted.map((value) => SIDE - place(value))];
  const dots = condition.genes.map((gene, number) => {
    const target = condition.targets.includes(gene);
    const beyond = Math.abs(predicted[number]) > limit;
    const said = [`measured ${change(measured[number])}`, `${method.name} ${change(predicted[number])}`];
    if (target) said.push('target of the perturbation, left out of r');
    if (beyond) said.push('beyond the frame');
    const look = `dot${target ? ' target' : ''}${beyond ? ' beyond' : ''}`;
    const hover = [content.genes[gene], ...said].join('\n');
    return svg('circle', { cx: x[number], cy: y[number], r: 3.5, class: look, 'data-hover': hover });
  });
  const strongest = (values) => {
    const order = [...values.keys()].sort((a, b) => Math.abs(values[b]) - Math.abs(values[a]));
    return order.slice(0, NAMED);
  };
  const named = [...new Set([...strongest(measured), ...strongest(predicted)])];
  const labels = named.map((number) => [content.genes[condition.genes[number]], x[number], y[number]]);
  const frame = svg('g', { transform: 'translate(46 10)' },
    svg('path', { class: 'axis', d: `M0 0V${SIDE}H${SIDE}` }),
    svg('path', { class: 'grid', d: `M0 ${SIDE / 2}H${SIDE}M${SIDE / 2} 0V${SIDE}` }),
    svg('path', { class: 'grid dashed', d: `M0 ${SIDE}L${SIDE} 0` }),
    ...ticks(-limit, limit, 4).flatMap((value) => [
      written(place(value), SIDE + 14, tickText(value)),
      written(-4, SIDE - place(value) + 3, tickText(value), 'end'),
    ]),
    written(SIDE / 2, SIDE + 32, 'measured change (log1p)'),
    svg('g', { transform: `translate(-34 ${SIDE / 2}) rotate(-90)` }, written(0, 0, 'predicted change')),
    ...dots, ...namesBeside(labels, x, y));
  const r = condition.r[at] === null ? 'r undefined, counted as 0' : `r = ${rounded(condition.r[at])}`;
  const slope = condition.slope[at] === null ? '' : `, slope of this perturbation ${rounded(condition.slope[at])}`;
  const other = method.halved ? '; against the other half of the cells' : '';
  const label = `${method.name}: predicted against measured change of ${condition.name}`;
  return html('figure', { style: paintOf(method) },
    captionOf(method, html('br'), r + slope + other), picture('', SIDE + 60, SIDE + 50, label, frame));
}

// Gene names beside their dots, in the first of eight places that is free of dots and names; without one, the pointer
// has to ask.
function namesBeside(labels, xs, ys) {
  const taken = xs.map((x, number) => [x - 3, ys[number] - 3, x + 3, ys[number] + 3]);
  return labels.flatMap(([name, x, y]) => {
    const text = short(name, 14);
    const width = text.length * 5.6;
    const [right, left] = [5, -5 - width];
    const above = [[-width / 2, -6], [right, -6], [left, -6]];
    const places = [[right, 3], [left, 3], ...above, ...above.map(([dx]) => [dx, 12])];
    const boxes = places.map(([dx, dy]) => [x + dx, y + dy - 9, x + dx + width, y + dy]);
    const free = boxes.find((box) => box[0] >= 0 && box[2] <= SIDE && box[1] >= 0 && box[3] <= SIDE
      && taken.every((other) => box[2] < other[0] || other[2] < box[0] || box[3] < other[1] || other[3] < box[1]));
    if (!free) return [];
    taken.push(free);
    return [written(free[0], free[3] - 1, text, 'start', 'gene')];
  });
}

// The colour of a method; of a variant, which has that of its kind, half of a mark is filled.
function paintOf({ colour, fill, gradient }) {
  if (fill === 'full') return `--method: ${colour}`;
  const swatch = `linear-gradient(to ${OPPOSITE[fill]}, ${colour} 50%, var(--paper) 50%)`;
  return `--method: ${colour}; --fill: url(#${gradient}); --swatch: ${swatch}`;
}

function gradientsOf({ methods }) {
  const variants = methods.filter(({ fill }) => fill !== 'full');
  const made = variants.map(({ colour, fill, gradient }) => {
    const [x1, x2, y1, y2] = ['right', 'left', 'bottom', 'top'].map((side) => Number(fill === side));
    const half = svg('stop', { offset: 0.5, 'stop-color': colour });
    const empty = svg('stop', { offset: 0.5, style: 'stop-color: var(--paper)' });
    return svg('linearGradient', { id: gradient, x1, x2, y1, y2 }, half, empty);
  });
  return svg('svg', { width: 0, height: 0, 'aria-hidden': 'true' }, ...made);
}

// The mark of a method, by its group.
function markOf(method, x, y, look) {
  const { group } = method;
  const attributes = { class: look, transform: `translate(${x} ${y})`, style: paintOf(method) };
  return SHAPES[group] ? svg('path', { ...attributes, d: SHAPES[group] }) : svg('circle', { ...attributes, r: 4.5 });
}

function legend(content, methods) {
  const key = (text, mark) => html('span', { class: 'legend-key' },
    svg('svg', { width: 24, height: 14, viewBox: '-12 -7 24 14', 'aria-hidden': 'true' }, mark), text);
  const ofMethods = methods.map((at) => content.methods[at]);
  return html('p', { class: 'legend' },
    key('measured cells, quartiles and median', svg('path', { class: 'cells', d: 'M-10-5H10V5H-10ZM0-5V5' })),
    key('mean of measured cells', svg('path', { class: 'mean', d: 'M0-6V6' })),
    key('control cells', svg('path', { class: 'controls-box', d: 'M-10-3H10V3H-10ZM0-3V3' })),
    ...ofMethods.map((method) => key(`${method.name}: predicted mean`, markOf(method, 0, 0, 'dot'))));
}

// Predicted means far outside of all that was measured are drawn hollow, at the edge.
function boxes(content, condition, methods, room) {
  const { cells, controls } = condition.quartiles;
  const [left, right] = [96, 12];
  const width = clamped(room, 300, 760);
  const known = [...cells.flat(), ...controls.flat(), ...condition.measured.slice(0, cells.length), 0];
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const predicted = methods.flatMap((at) => condition.predicted[at].slice(0, cells.length));
  const more = Math.max(high - low, 1) / 2;
  const from = Math.max(low - more, Math.min(low, ...predicted)) - more / 10;
  const to = Math.min(high + more, Math.max(high, ...predicted)) + more / 10;
  const place = (value) => left + ((width - left - right) * (clamped(value, from, to) - from)) / (to - from);
  const box = ([first, median, third], top, height, look) => svg('path', {
    class: look,
    d: `M${place(first)} ${top}H${place(third)}v${height}H${place(first)}ZM${place(median)} ${top}v${height}`,
  });
  const rows = cells.map((own, number) => {
    const top = number * BOX_ROW;
    const name = content.genes[condition.genes[number]];
    const said = [
      name, `measured mean ${change(condition.measured[number])}`, `measured cells ${own.map(change).join(', ')}`,
      `control cells ${controls[number].map(change).join(', ')}`,
      ...methods.map((at) => `${content.methods[at].name} ${change(condition.predicted[at][number])}`),
    ];
    const marks = methods.map((at) => {
      const value = condition.predicted[at][number];
      const look = value < from || value > to ? 'dot beyond' : 'dot';
      return markOf(content.methods[at], place(value), top + 16.5, look);
    });
    return svg('g', { 'data-hover': said.join('\n') },
      svg('rect', { class: number % 2 ? 'stripe' : 'plain', x: 0, y: top, width, height: BOX_ROW }),
      written(left - 8, top + 17, short(name, 13), 'end'),
      box(controls[number], top + 2, 6, 'controls-box'), box(own, top + 11, 11, 'cells'),
      svg('path', { class: 'mean', d: `M${place(condition.measured[number])} ${top + 9}v15` }), ...marks);
  });
  const bottom = cells.length * BOX_ROW;
  const label = `${condition.name}: quartiles of measured and control cells, predicted means, ${cells.length} genes`;
  return picture('boxes', width, bottom + 40, label, ...rows,
    svg('path', { class: 'grid', d: `M${place(0)} 0V${bottom}` }),
    ...ticks(from, to, width < 500 ? 4 : 8).map((value) => written(place(value), bottom + 14, tickText(value))),
    written((left + width) / 2, bottom + 32, 'change from control cells (log1p)'));
}

// One pixel a value, enlarged: blue is less, red is more, and clear is no change, so that the paper shows through.
function pixels(values, order, limit) {
  const canvas = html('canvas', { width: values[0].length, height: order.length });
  const image = canvas.getContext('2d').createImageData(canvas.width, canvas.height);
  order.forEach((row, line) => values[row].forEach((value, column) => {
    const colour = value < 0 ? [33, 102, 172] : [178, 24, 43];
    const strength = 255 * Math.min(1, Math.abs(value) / limit);
    image.data.set([...colour, strength], 4 * (line * canvas.width + column));
  }));
  canvas.getContext('2d').putImageData(image, 0, 0);
  return canvas.toDataURL();
}

// Measured, predicted and residual changes of all conditions by one method; `linkOf` leads to a condition.
function heatMap(content, at, chosen, linkOf) {
  const { map, conditions } = content;
  const method = content.methods[at];
  const measured = measuredOf(map, method);
  const predicted = map.predicted[at];
  const residual = measured.map((values, row) => values.map((value, gene) => value - predicted[row][gene]));
  const sizes = measured.flat().map(Math.abs).sort((a, b) => a - b);
  const limit = Math.max(sizes[Math.ceil(0.99 * sizes.length) - 1], 1);
  const rowHeight = clamped(600 / conditions.length, 2, 13);
  const [left, top, height, wide] = [120, 16, rowHeight * conditions.length, CELL * map.genes.length];
  const genes = map.genes.map((gene) => short(content.genes[gene], 14));
  const every = Math.ceil(10 / rowHeight); // names have room beside every so many rows
  const names = map.rows.flatMap((row, line) => {
    const own = row === chosen;
    if (!own && (line % every || Math.abs(line - map.rows.indexOf(chosen)) < every)) return [];
    const name = own ? `▸ ${short(conditions[row].name, 14)}` : short(conditions[row].name, 16);
    return [written(left - 6, top + (line + 0.5) * rowHeight + 3, name, 'end', own ? 'chosen' : '')];
  });
  const panels = Object.entries({ measured, predicted, residual }).flatMap(([title, values], number) => {
    const x = left + number * (wide + 16);
    const area = { x, y: top, width: wide, height };
    const image = svg('image', { ...area, preserveAspectRatio: 'none', href: pixels(values, map.rows, limit) });
    pointed.set(image, (across, down) => {
      const row = map.rows[placeIn(map.rows, down)];
      const column = placeIn(genes, across);
      const place = `${conditions[row].name}, ${content.genes[map.genes[column]]}`;
      return { text: `${place}\n${title} ${change(values[row][column])}`, link: linkOf(conditions[row]) };
    });
    const under = genes.map((gene, column) => svg('g', {
      transform: `translate(${x + (column + 0.5) * CELL + 3} ${top + height + 5}) rotate(-90)`,
    }, written(0, 0, gene, 'end', 'gene')));
    return [written(x, 11, title, 'start'), svg('rect', { class: 'frame', ...area }), image, ...under];
  });
  const label = `${method.name}: measured, predicted and residual change of ${conditions.length} ${content.noun}s`;
  const bottom = top + height + 12 + 5.6 * Math.max(...genes.map((gene) => gene.length));
  const drawn = picture('', left + 3 * (wide + 16), bottom, label, ...names, ...panels);
  const share = method.left_over === null ? '' : `: over all genes, the squared error is ${
    (100 * method.left_over).toFixed(0)} % of that of predicting no change`;
  const colours = `. Full colour: ${change(limit).slice(1)} or more; red is up, blue is down.`;
  return html('figure', { class: 'map', style: paintOf(method) }, captionOf(method, share + colours),
    html('div', { class: 'scroll', tabindex: 0, role: 'group', 'aria-label': label }, drawn));
}

// What the pointer is on says its numbers.
const hover = html('div', { class: 'hover', 'aria-hidden': 'true', hidden: '' });
document.querySelector('main').append(hover);

function underPointer({ target, clientX, clientY }) {
  if (!(target instanceof Element)) return undefined;
  const { left, top, width, height } = target.getBoundingClientRect();
  const text = target.closest('[data-hover]')?.dataset.hover;
  return pointed.get(target)?.((clientX - left) / width, (clientY - top) / height) ?? (text && { text });
}

function showHover(event) {
  const found = underPointer(event);
  hover.hidden = !found;
  if (!found) return;
  hover.textContent = found.text;
  const { offsetWidth: width, offsetHeight: height } = hover;
  const below = event.clientY + 14;
  hover.style.left = `${clamped(event.clientX + 14, 0, innerWidth - width - 4)}px`;
  hover.style.top = `${Math.max(0, below + height > innerHeight ? below - height - 24 : below)}px`;
}

document.addEventListener('pointermove', showHover);
document.addEventListener('pointerdown', showHover);
document.addEventListener('click', (event) => {
  const link = underPointer(event)?.link;
  if (link) location.hash = link;
});
