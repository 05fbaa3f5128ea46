#!/bin/sh
# Prints the two wording figures of src: idiom words per 1,000 comment words, doc comments without a subject.
# WORDING_LIST=1 sh tests/wording.sh prints every place.
set -eu
cd "$(dirname "$0")/.."
exec cargo test --quiet --locked --test it -- --nocapture --exact wording::comments_have_few_idioms_and_docs_have_subjects
