"""The hook of mkdocs: adds the generated pages, fills the navigation, rewrites links.

The pages themselves are made by the modules beside this one, which do not need mkdocs. The one
rule: nothing is written into docs; what is generated exists only in the site.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from markdown import Markdown
from markdown.blockprocessors import build_block_parser
from markdown.extensions import Extension
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

sys.path.insert(0, str(Path(__file__).parents[1]))  # mkdocs loads this file alone

from website import pages

ROOT = Path(__file__).parents[2]
_origins: dict[str, str] = {}  # of the pages that are not in docs, by path
_attached: set[str] = set()  # files outside docs that a page links to


class _ForgeLists(Extension):
    """Lists nest by two spaces, as on the forges where the sources are read, too."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802  # markdown's own name
        md.tab_length = 2
        md.parser = build_block_parser(md)  # the processors have read the former length


def on_config(config: MkDocsConfig) -> None:
    """Anchors and lists as the forges make them."""
    config.mdx_configs["toc"] = {
        **config.mdx_configs.get("toc", {}),
        "slugify": slugify(case="lower"),
    }
    # first, because it replaces what other extensions add to
    config.markdown_extensions.insert(0, _ForgeLists())


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is generated, and what pages link to outside docs."""
    for file in [
        f for f in files if f.src_uri.startswith(pages.SOURCES) or f.src_uri.endswith(".py")
    ]:
        files.remove(file)
    for page in pages.generated():
        _origins[page.path] = page.origin
        if (old := files.get_file_from_path(page.path)) is not None:
            files.remove(old)
        files.append(File.generated(config, page.path, content=page.markdown))
    for file in [*files.documentation_pages()]:
        pages.site_links(file.content_string, _origin(file.src_uri), file.src_uri, _attached)
    for source in sorted(_attached):
        content = (ROOT / source).read_bytes()
        files.append(File.generated(config, f"files/{source}", content=content))
    config.nav = list(pages.filled(config.nav, [file.src_uri for file in files]))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Return a page with the links of the site."""
    path = page.file.src_uri
    return pages.site_links(markdown, _origin(path), path, set())


def _origin(path: str) -> str:
    """Return the folder to which a page's links are relative, from the root."""
    return _origins.get(path, str(Path("docs", path).parent))
