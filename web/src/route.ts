// Where the reader is: the part of the address after #, so that every place has a link of its own.
//
//   #/0  #/0/problems?outcome=wrong  #/0/problem/q7?a=3&b=5  #/sweep/0?effort=2&width=3  #/compare/0  #/replay/0

import { useEffect, useState } from "preact/hooks";

export interface Route {
  path: string[];
  query: URLSearchParams;
}

export function parsed(hash: string): Route {
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split("?");
  return { path: path.split("/").filter(Boolean).map(decoded), query: new URLSearchParams(query) };
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

export function link(path: (string | number)[], query: Record<string, string> = {}): string {
  const kept = Object.entries(query).filter(([, value]) => value !== "");
  const tail = kept.length ? `?${new URLSearchParams(kept).toString()}` : "";
  return `#/${path.map((part) => encodeURIComponent(wellFormed(String(part)))).join("/")}${tail}`;
}

/** encodeURIComponent throws on half of a surrogate pair. */
function wellFormed(text: string): string {
  return text.replace(/[\uD800-\uDBFF](?![\uDC00-\uDFFF])|(?<![\uD800-\uDBFF])[\uDC00-\uDFFF]/g, "\uFFFD");
}

/** Changes a part of the query in place, without a new entry in the history. */
export function replaceQuery(route: Route, changes: Record<string, string>): void {
  const query = new URLSearchParams(route.query);
  for (const [name, value] of Object.entries(changes)) {
    if (value) query.set(name, value);
    else query.delete(name);
  }
  const address = link(route.path, Object.fromEntries(query));
  history.replaceState(null, "", address);
  dispatchEvent(new HashChangeEvent("hashchange"));
}

export function go(address: string): void {
  location.hash = address.replace(/^#/, "");
}

export function useRoute(): Route {
  const [route, setRoute] = useState(() => parsed(location.hash));
  useEffect(() => {
    const follow = () => setRoute(parsed(location.hash));
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, []);
  return route;
}
