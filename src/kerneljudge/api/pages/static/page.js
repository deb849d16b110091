// Keeps the parts of the page that are marked data-live as the server has them, while the server
// marks the page itself with data-refresh: seconds between two looks.
"use strict";

(() => {
  const connection = document.getElementById("connection");
  let failures = 0;

  const later = (seconds) => setTimeout(look, 1000 * seconds);

  // Puts in what changed, and the focus back where it was.
  function take(fresh) {
    for (const part of document.querySelectorAll("[data-live]")) {
      const other = fresh.getElementById(part.id);
      if (other === null || part.isEqualNode(other)) continue;
      const focused = part.contains(document.activeElement) ? document.activeElement : null;
      part.replaceWith(document.importNode(other, true));
      if (focused !== null) refocus(document.getElementById(part.id), focused);
    }
    document.title = fresh.title;
    document.dispatchEvent(new Event("page:refreshed"));
  }

  function refocus(part, focused) {
    const address = focused.getAttribute("href");
    const alike = [...part.querySelectorAll(focused.tagName)].find((element) =>
      address === null ? element.textContent === focused.textContent
                       : element.getAttribute("href") === address);
    if (alike !== undefined) alike.focus({ preventScroll: true });
  }

  async function look() {
    const seconds = Number(document.body.dataset.refresh);
    if (document.hidden) return later(seconds);
    try {
      const reply = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
      if (reply.redirected) return location.reload(); // to where a key is asked for
      if (reply.status === 429) return later(Number(reply.headers.get("Retry-After")) || seconds);
      if (!reply.ok) throw new Error(`the server answered ${reply.status}`);
      const fresh = new DOMParser().parseFromString(await reply.text(), "text/html");
      take(fresh);
      failures = 0;
      connection.textContent = "";
      if (fresh.body.dataset.refresh === undefined) return; // nothing will change any more
      later(Number(fresh.body.dataset.refresh));
    } catch (error) {
      failures += 1;
      connection.textContent = `Not up to date: ${error.message}`;
      later(Math.min(seconds * 2 ** failures, 30));
    }
  }

  if (document.body.dataset.refresh !== undefined) later(Number(document.body.dataset.refresh));
})();
