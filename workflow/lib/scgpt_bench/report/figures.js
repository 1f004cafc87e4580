// Figures: SVG, compressed in the page, drawn into it, so that their text can be found and selected and their marks say
// their values where the mouse rests.

const DRAWN = new Set(['svg', 'g', 'defs', 'path', 'use', 'text', 'tspan', 'title', 'rect', 'circle', 'image', 'clipPath', 'pattern']);
const REFERS = ['clip-path', 'fill', 'style']; // attributes that may name another element in `url(#...)`

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
}

async function textOf(holder) {
  const compressed = new Blob([bytesOf(holder.dataset.source)]).stream();
  return new Response(compressed.pipeThrough(new DecompressionStream('gzip'))).text();
}

async function draw(holder) {
  const svg = new DOMParser().parseFromString(await textOf(holder), 'image/svg+xml').documentElement;
  for (const own of svg.querySelectorAll(':scope > title, style')) own.remove();
  for (const element of [svg, ...svg.querySelectorAll('*')]) {
    if (DRAWN.has(element.localName)) makeOwn(element, `${holder.closest('.item').id}-`);
    else if (element.isConnected) element.remove();
  }
  for (const group of svg.querySelectorAll('[data-cells]')) {
    const { rows, columns, texts } = JSON.parse(group.dataset.cells);
    pointed.set(group.firstElementChild, (across, down) => {
      const [row, column] = [placeIn(rows, down), placeIn(columns, across)];
      return { text: `${rows[row]}, ${columns[column]}\n${texts[row][column]}` };
    });
  }
  for (const text of svg.querySelectorAll('text')) {
    const meaning = meaningOf(text.textContent.replace(/ \((floor|ceiling)\)$/, ''));
    if (!meaning || text.closest('g:has(> title)')) continue;
    const title = document.createElementNS(svg.namespaceURI, 'title');
    title.textContent = meaning;
    text.append(title);
  }
  for (const side of ['width', 'height']) svg.removeAttribute(side);
  svg.setAttribute('preserveAspectRatio', 'xMinYMin meet');
  holder.replaceChildren(svg);
  holder.dataset.ready = 'yes';
}

// Which of the names side by side is at this share of their width.
function placeIn(names, share) {
  return clamped(Math.floor(share * names.length), 0, names.length - 1);
}

// Two figures have the same names for different parts: in the page each name begins with that of its item.
function makeOwn(element, prefix) {
  for (const { name, value } of [...element.attributes]) {
    if (name === 'id') element.setAttribute(name, prefix + value);
    else if (name.endsWith('href') && value.startsWith('#')) element.setAttribute(name, `#${prefix}${value.slice(1)}`);
    else if (name.endsWith('href') && !value.startsWith('data:image/png;')) element.removeAttribute(name);
    else if (name.startsWith('on')) element.removeAttribute(name);
    else if (REFERS.includes(name)) element.setAttribute(name, value.replaceAll('url(#', `url(#${prefix}`));
  }
}

// Twice the size of the figure on the screen, for slides.
async function pngOf(holder) {
  const image = new Image();
  image.src = URL.createObjectURL(new Blob([await textOf(holder)], { type: 'image/svg+xml' }));
  await image.decode();
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [2 * image.naturalWidth, 2 * image.naturalHeight];
  canvas.getContext('2d').drawImage(image, 0, 0, canvas.width, canvas.height);
  URL.revokeObjectURL(image.src);
  return new Promise((resolve) => canvas.toBlob(resolve, 'image/png'));
}

// The numbers that a figure shows, which it carries as its source.
async function dataOf(holder) {
  const svg = new DOMParser().parseFromString(await textOf(holder), 'image/svg+xml');
  return svg.getElementsByTagNameNS('http://purl.org/dc/elements/1.1/', 'source')[0].textContent;
}
