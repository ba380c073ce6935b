// The conversation lives in this page. Answers stream from the OpenAI endpoint; their Markdown becomes HTML on the
// server, which lets nothing through that runs or loads.
"use strict";

(() => {
  const thread = document.getElementById("thread");
  const welcome = document.getElementById("welcome");
  const form = document.getElementById("composer");
  const prompt = document.getElementById("prompt");
  const model = document.getElementById("model");
  const send = document.getElementById("send");
  const stop = document.getElementById("stop");
  const csrf = document.querySelector("meta[name=csrf-token]").content;
  let messages = [];
  let running = null;

  function element(tag, className, text = "") {
    const made = document.createElement(tag);
    made.className = className;
    made.textContent = text;
    return made;
  }

  function following() {
    return thread.scrollHeight - thread.scrollTop - thread.clientHeight < 80;
  }

  function keepUp(wasFollowing) {
    if (wasFollowing) thread.scrollTop = thread.scrollHeight;
  }

  // Renders the newest text, one request at a time, so the pace is what the line and the server bear.
  class Prose {
    constructor(target) {
      this.target = target;
      this.text = "";
      this.shown = "";
      this.busy = null;
    }

    append(piece) {
      this.text += piece;
      this.busy ??= this.catchUp().finally(() => (this.busy = null));
    }

    async catchUp() {
      while (this.shown !== this.text) {
        const text = this.text;
        const html = await this.render(text);
        const wasFollowing = following();
        if (html === null) this.target.textContent = text;
        else this.target.innerHTML = html;
        this.shown = text;
        keepUp(wasFollowing);
        await new Promise((resolve) => setTimeout(resolve, 60));
      }
    }

    async render(text) {
      try {
        const response = await fetch("/chat/render", {
          method: "POST",
          headers: { "content-type": "text/plain; charset=utf-8", "x-csrf-token": csrf },
          body: text,
        });
        return response.ok ? await response.text() : null;
      } catch {
        return null;
      }
    }

    async finish() {
      await this.busy;
      await this.catchUp();
    }
  }

  async function* events(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let buffer = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      buffer += value;
      const lines = buffer.split(/\r?\n/);
      buffer = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        yield JSON.parse(data);
      }
    }
  }

  async function failure(response) {
    if (response.status === 401) location.assign("/login");
    const text = await response.text();
    try {
      return JSON.parse(text).error.message;
    } catch {
      return text || `The answer was ${response.status}.`;
    }
  }

  async function answer() {
    const message = element("article", "message assistant");
    const body = element("div", "prose thinking");
    const served = element("p", "served");
    message.setAttribute("aria-label", "Answer");
    message.append(body, served);
    thread.append(message);
    keepUp(true);

    const conversation = messages;
    const prose = new Prose(body);
    const started = performance.now();
    let first = 0;
    let last = 0;
    let pieces = 0;
    let usage = null;
    let note = "";
    const facts = [];
    running = new AbortController();
    busy(true);
    try {
      const response = await fetch("/v1/chat/completions", {
        method: "POST",
        headers: { "content-type": "application/json", "x-csrf-token": csrf },
        body: JSON.stringify({
          model: model.value,
          messages: conversation,
          // Small models wander at 1, the API's default.
          temperature: 0.5,
          stream: true,
          stream_options: { include_usage: true },
        }),
        signal: running.signal,
      });
      if (!response.ok) throw new Error(await failure(response));
      for (const name of ["model", "quant", "runtime"]) facts.push(response.headers.get(`x-sovereign-${name}`));
      for await (const chunk of events(response.body)) {
        if (chunk.error) throw new Error(chunk.error.message);
        if (chunk.usage) usage = chunk.usage;
        const piece = chunk.choices?.[0]?.delta?.content;
        if (!piece) continue;
        last = performance.now();
        first ||= last;
        pieces += 1;
        prose.append(piece);
      }
    } catch (error) {
      if (error.name === "AbortError") note = "stopped";
      else message.append(element("p", "notice bad", error.message));
    }
    await prose.finish();
    body.classList.remove("thinking");
    running = null;

    const tokens = usage?.completion_tokens ?? pieces;
    if (tokens > 1 && last > first) facts.push(`${(((tokens - 1) * 1000) / (last - first)).toFixed(1)} tokens/s`);
    if (first) facts.push(`first word after ${((first - started) / 1000).toFixed(1)} s`);
    facts.push(note);
    served.replaceChildren(...facts.filter(Boolean).map((fact) => element("span", "", fact)));
    // A question without an answer is not part of what the model is told next.
    if (prose.text) conversation.push({ role: "assistant", content: prose.text });
    else conversation.pop();
    busy(false);
    prompt.focus();
  }

  function busy(on) {
    thread.setAttribute("aria-busy", String(on));
    send.hidden = on;
    stop.hidden = !on;
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = prompt.value.trim();
    if (!text || running) return;
    welcome.hidden = true;
    messages.push({ role: "user", content: text });
    thread.append(element("p", "message user", text));
    prompt.value = "";
    answer();
  });

  prompt.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });

  stop.addEventListener("click", () => running?.abort());

  document.getElementById("new-chat").addEventListener("click", () => {
    running?.abort();
    messages = [];
    thread.querySelectorAll(".message").forEach((message) => message.remove());
    welcome.hidden = false;
    prompt.focus();
  });
})();
