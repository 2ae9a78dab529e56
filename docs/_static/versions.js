// The list of versions: that of the build, and on a web server the newest one, which each version has a copy of.
document.addEventListener("DOMContentLoaded", () => {
  const select = document.getElementById("versions");
  if (!select) return;
  const root = select.dataset.root;
  const fill = (versions) => {
    select.replaceChildren(...versions.map(({ version, url }) => {
      const option = new Option(version, url);
      option.selected = version === select.dataset.version;
      return option;
    }));
    select.hidden = versions.length < 2;
  };
  fill(JSON.parse(select.dataset.versions));
  if (location.protocol.startsWith("http"))
    fetch(`${root}_static/switcher.json`).then((found) => found.json()).then(fill).catch(() => {});
  select.addEventListener("change", () => {
    location.href = new URL(select.value + "index.html", new URL(root || "./", location.href));
  });
});
