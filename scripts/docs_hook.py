"""What mkdocs calls while it builds the site: adds the pages that are read off the code."""

from __future__ import annotations

import re

import docs_pages
import docs_studies
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PART = re.compile(r"<!-- generated: (\S+) -->")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    for section in config.nav or []:
        if "Methods" in section:
            section["Methods"] = docs_pages.nav()
        for page in section.get("Evidence", []):
            if "Studies" in page:
                page["Studies"] = docs_studies.nav()
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for place, text in docs_pages.pages().items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    return PART.sub(lambda found: docs_pages.part(found[1]), markdown)
