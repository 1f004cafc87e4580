// The view of one perturbation, for the methods that are chosen: the address has `perturbation` and `methods`, names
// with commas between them. Rows of the index lead to it.

const contents = new Map(); // views, and what is in them

function contentOf(view) {
  if (!contents.has(view)) {
    contents.set(view, textOf(view).then((text) => {
      const content = JSON.parse(text);
      content.methods.forEach((method, at) => { method.gradient = `${view.closest('.item').id}-${at}`; });
      view.append(controlsOf(view.closest('.item'), content), html('div', { class: 'drawings' }), gradientsOf(content));
      return content;
    }));
  }
  return contents.get(view);
}

// The condition and the methods that the address asks for; else the one with the largest change, and the method of each
// group whose r is best on average; benchmark controls and methods without pretraining are left out.
function chosenOf(content) {
  const { chosen } = address();
  const { conditions, methods } = content;
  const row = conditions.findIndex(({ name }) => name === chosen.get('perturbation'));
  const largest = conditions.reduce((best, { size }, at) => (size > conditions[best].size ? at : best), 0);
  const asked = chosen.has('methods') ? chosen.get('methods').split(',').map(decoded) : [chosen.get('method')];
  let places = [...methods.keys()].filter((at) => asked.includes(methods[at].name));
  if (!places.length) {
    const means = methods.map(({ name }, at) => (
      names.without_pretraining.includes(name) || conditions.every(({ r }) => r[at] === null)
      ? -Infinity : conditions.reduce((sum, { r }) => sum + (r[at] ?? 0), 0)));
    const best = new Map();
    for (const [at, { group }] of methods.entries()) {
      if (group !== 'benchmark control' && !(means[best.get(group)] >= means[at])) best.set(group, at);
    }
    places = best.size ? [...best.values()] : [0];
  }
  return { row: row < 0 ? largest : row, found: row >= 0, methods: places };
}

// Links lead to the item of the view, with the choices that hold, as far as they are not the item's own.
function linkTo(item, changes) {
  const chosen = new Map(address().chosen);
  for (const name of Object.keys(labelsOf(item))) chosen.delete(name);
  for (const [name, value] of Object.entries(changes)) chosen.set(name, value);
  return hashOf({ page: item.id, chosen });
}

// Of each data set the view of the split that tests the perturbation, or else of the first.
async function drawViews() {
  const views = [...document.querySelectorAll('.view')].filter((view) => view.checkVisibility());
  const read = await Promise.all(views.map(contentOf));
  const found = read.map((content) => chosenOf(content).found);
  const drawn = new Set();
  for (const at of [...views.keys()].sort((a, b) => found[b] - found[a])) {
    const group = views[at].closest('.group');
    drawView(views[at], read[at], !drawn.has(group));
    drawn.add(group);
  }
}

function drawView(view, content, whole) {
  const { row, found, methods } = chosenOf(content);
  const item = view.closest('.item');
  const condition = content.conditions[row];
  const [controls, drawings] = view.children;
  controls.querySelector('select').value = whole ? condition.name : '';
  for (const [at, box] of controls.querySelectorAll('input').entries()) box.checked = methods.includes(at);
  const heading = (text) => html('h4', {}, text);
  const asked = address().chosen.get('perturbation');
  const shown = !whole ? [] : [
    ...(asked && !found ? [html('p', { class: 'note' }, `${asked} is not tested in this split.`)] : []),
    html('p', {}, factsOf(content, condition)),
    heading(`Predicted against measured change, ${condition.genes.length} of ${content.n_genes} genes`),
    scatters(content, condition, methods),
    heading(`The ${condition.quartiles.cells.length} genes with the largest measured change`),
    legend(content, methods),
    boxes(content, condition, methods, drawings.clientWidth || 700),
    heading(`All ${content.conditions.length} ${content.noun}s: measured, predicted, residual`),
    ...methods.map((at) => heatMap(content, at, row, ({ name }) => linkTo(item, { perturbation: name }))),
    numbers(content, condition, methods),
  ];
  drawings.replaceChildren(...shown);
  view.dataset.ready = whole ? condition.name : ''; // tells the tests what is drawn
}

function factsOf({ conditions }, { name, cells, size, reliability }) {
  const rank = conditions.filter((other) => other.size > size).length + 1;
  const repeats = reliability === null ? 'reliability unknown' : `reliability ${rounded(reliability)}`;
  return `${name}: ${cells} measured cells · size of the measured change ${size} (number ${rank} of ${
    conditions.length}) · ${repeats}.`;
}

function controlsOf(item, content) {
  const names = content.conditions.map(({ name }) => new Option(name, name));
  const select = html('select', {}, new Option('choose', ''), ...names);
  select.addEventListener('change', () => { location.hash = linkTo(item, { perturbation: select.value }); });
  const labels = content.methods.map((method) => html('label', { style: paintOf(method) },
    html('input', { type: 'checkbox', value: method.name }), html('span', { class: 'swatch' }), method.name));
  const methods = html('fieldset', {}, html('legend', {}, 'methods'), ...labels);
  methods.addEventListener('change', () => {
    const checked = [...methods.querySelectorAll('input:checked')].map((box) => encodeURIComponent(box.value));
    location.hash = linkTo(item, { methods: checked.join(',') });
  });
  return html('div', { class: 'controls' }, html('label', {}, content.noun, select), methods);
}

function numbers(content, condition, methods) {
  const line = (scope, cell, [name, ...texts]) => html('tr', {}, html('th', { scope }, name), ...texts.map(cell));
  const number = (value) => html('td', { class: 'number' }, change(value));
  const column = (text) => html('th', { scope: 'col' }, text);
  const rows = condition.genes.map((gene, at) => line('row', number, [
    content.genes[gene], condition.measured[at], ...methods.map((method) => condition.predicted[method][at]),
  ]));
  const head = line('col', column, ['gene', 'measured', ...methods.map((method) => content.methods[method].name)]);
  const caption = html('caption', {}, `${condition.name}: change from control cells (log1p)`);
  const table = html('table', {}, caption, html('thead', {}, head), html('tbody', {}, ...rows));
  return html('details', {}, html('summary', {}, `These ${rows.length} genes in numbers`),
    html('div', { class: 'scroll', tabindex: 0, role: 'group', 'aria-label': 'Genes in numbers' }, table));
}

// The view of the data set and split of a table, which is its index then; of an index of several splits that is shown.
function viewBeside(holder, split = labelsOf(holder.closest('.item')).split) {
  const items = [...holder.closest('.group').querySelectorAll('.item:has(.view)')];
  const ofSplit = (item) => (split === undefined ? !item.hidden : labelsOf(item).split === split);
  return items.find(ofSplit) ?? (split === undefined ? items[0] : undefined);
}

function linkOfRow(holder, columns, row) {
  const [perturbation, context, split] = ['perturbation', 'context', 'split'].map((name) => row[columns.indexOf(name)]);
  const item = viewBeside(holder, split);
  const name = context === undefined ? perturbation : `${perturbation}@${context}`;
  return item && `<a href="${escaped(linkTo(item, { perturbation: name }))}">${escaped(perturbation)}</a>`;
}

// The index has the scores of the chosen methods, and links that keep what is chosen.
async function showChosenMethods(holder) {
  const view = viewBeside(holder)?.querySelector('.view');
  if (!view) return;
  const content = await contentOf(view);
  const shown = chosenOf(content).methods.map((at) => content.methods[at].name);
  const names = new Set(content.methods.map(({ name }) => name));
  const columns = JSON.parse(holder.dataset.columns);
  const table = filled.get(holder);
  for (const at of table.columns().indexes().toArray()) {
    const name = columns[table.column(at).dataSrc()];
    if (names.has(name)) table.column(at).visible(shown.includes(name), false);
  }
  table.columns.adjust();
  table.rows().invalidate().draw('page');
}

document.addEventListener('choices', () => {
  drawViews();
  for (const holder of filled.keys()) showChosenMethods(holder);
});
