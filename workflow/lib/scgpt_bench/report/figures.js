// Figures: SVG, compressed in the page, drawn into it when it comes near the window.

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
}

async function textOf(holder) {
  const compressed = new Blob([bytesOf(holder.dataset.source)]).stream();
  return new Response(compressed.pipeThrough(new DecompressionStream('gzip'))).text();
}
