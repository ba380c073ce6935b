// Follows a stack's log in a dialog. Without this file the link opens the log as text.
"use strict";

(() => {
  const dialog = document.getElementById("logs");
  const output = document.getElementById("logs-output");
  const LIMIT = 200_000;
  let controller;

  async function follow(address) {
    controller = new AbortController();
    output.textContent = "";
    try {
      const response = await fetch(`${address}?follow=1`, { signal: controller.signal });
      if (!response.ok) {
        output.textContent = await response.text();
        return;
      }
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        const atEnd = output.scrollHeight - output.scrollTop - output.clientHeight < 40;
        output.textContent = (output.textContent + value).slice(-LIMIT);
        if (atEnd) output.scrollTop = output.scrollHeight;
      }
    } catch (error) {
      if (error.name !== "AbortError") output.textContent += `\nThe log ended: ${error.message}`;
    }
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest("[data-logs]");
    if (!link) return;
    event.preventDefault();
    document.getElementById("logs-title").textContent = link.dataset.logs;
    dialog.showModal();
    follow(link.getAttribute("href"));
  });
  dialog.addEventListener("close", () => controller?.abort());
})();
