"""Bridges to other explanation packages; each module needs the package it is named after."""
